#!/usr/bin/env bash
# A real language model on real questions, from the files to the board: what docs/real.md reports.
#
#     benchmarks/real_vqa.sh OUT GGUF TOKENIZER VQA_RAD      OUT: where all of it goes; the others as in real_vqa.py
#
# A part that is done is not done again, and one that was cut goes on where it was: the same command continues. EPOCHS
# (8), BATCH (32), SEEDS (0,1,2), METHODS (those of the config), LIMIT (all questions) and STAGES (the pictures that each
# stage adds) make it smaller. Whatever is finished is in OUT/records-*.tar.gz, which hold no text.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1 gguf=$2 tokenizer=$3 data=$4
work=${WORK:-$out}
mkdir -p "$out" "$work"
begun=$SECONDS

part() {
    local name=$1
    shift
    local start=$SECONDS
    echo "== $(date +%T) $name"
    "$@"
    local code=$?
    echo "-- $(date +%T) $name: $((SECONDS - start)) s, $((SECONDS - begun)) s in all, exit code $code"
    return $code
}

keep() { # the records and boards of a run, in parts that fit where they have to go; no rollouts, no pictures, no weights
    (cd "$work" && tar czf - --exclude=rollouts --exclude=pictures --exclude='*.safetensors' --exclude=digests.json run \
        taught/teaching.json) | split -b 15M - "$out/records-$1.tar.gz."
    ls -l "$out"
}

if [ ! -f "$work/model/config.json" ] || [ ! -f "$work/model/processor_config.json" ]; then
    part "build" python3 benchmarks/real_vqa.py build "$work/model" --gguf "$gguf" --tokenizer "$tokenizer" || exit 1
fi
part "split" python3 benchmarks/real_vqa.py split "$work/split" --data "$data" || exit 1
if [ ! -f "$work/taught/teaching.json" ]; then
    part "teach" python3 benchmarks/real_vqa.py teach "$work/model" "$work/taught" --data "$data" \
        --epochs "${EPOCHS:-8}" --batch "${BATCH:-32}" || exit 1
fi
run=(conrad-bench run --config configs/real_vqa.yaml --model "$work/taught" --data-root "vqa_rad=$work/split"
    --out "$work/run" --seeds "${SEEDS:-0,1,2}")
[ -n "${METHODS:-}" ] && run+=(--methods "$METHODS")
[ -n "${LIMIT:-}" ] && run+=(--limit "$LIMIT")
stage=0
for pictures in ${STAGES:-none blank,swapped blank,swapped,noised}; do
    stage=$((stage + 1))
    [ -f "$work/stage-$stage.done" ] && continue
    if [ "$pictures" = none ]; then
        part "run" "${run[@]}"
    else
        part "run with $pictures" "${run[@]}" --counterfactual "$pictures"
    fi && touch "$work/stage-$stage.done"
    part "keep" keep "$stage"
done
part "publish" conrad-bench publish "$work/run" --out "$work/bundle" && tar czf "$out/bundle.tar.gz" -C "$work" bundle

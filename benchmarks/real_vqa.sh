#!/usr/bin/env bash
# A real language model on real questions, from the files to the board: what docs/real.md reports.
#
#     benchmarks/real_vqa.sh OUT GGUF TOKENIZER VQA_RAD      OUT: where all of it goes; the others as in real_vqa.py
#
# A part that is done is not done again, and one that was cut goes on where it was: the same command continues. EPOCHS
# (8), BATCH (32), SEEDS (0,1,2), LIMIT (all questions), GROUPS_ONLY (a pattern), OPTIONS (of `run`) and STAGES (the
# pictures of each stage) make it smaller. What is finished is in OUT/run-*.tar.gz.*, without texts; PUBLISH=1 makes a
# bundle, too. WORK is where weights and run folders go (OUT).
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1 gguf=$2 tokenizer=$3 data=$4
work=${WORK:-$out}
mkdir -p "$out" "$work/logs"
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

keep() { # FOLDER: records and board, in parts of 15 MiB; no rollouts, no pictures, no weights
    tar czf - -C "$work" --exclude=rollouts --exclude=pictures --exclude='*.safetensors' --exclude=digests.json \
        --exclude=logs "$(basename "$1")" taught/teaching.json | split -b 15M - "$out/$(basename "$1").tar.gz."
}

if [ ! -f "$work/model/config.json" ] || [ ! -f "$work/model/processor_config.json" ]; then
    part "build" python3 benchmarks/real_vqa.py build "$work/model" --gguf "$gguf" --tokenizer "$tokenizer" || exit 1
fi
part "split" python3 benchmarks/real_vqa.py split "$work/split" --data "$data" || exit 1
if [ ! -f "$work/taught/teaching.json" ]; then
    part "teach" python3 benchmarks/real_vqa.py teach "$work/model" "$work/taught" --data "$data" \
        --epochs "${EPOCHS:-8}" --batch "${BATCH:-32}" || exit 1
fi
# Methods that share answers are one process; all of them share the GPU, and each keeps what it has when it is cut. The
# last field is the engine's batch: whole distributions over 262,144 words take 50 MB a response.
sampling=self_consistency,semantic_sets,discrete_semantic_entropy,semantic_entropy,degree_matrix,eigenvalues
sampling+=,eccentricity,lexical_similarity,monte_carlo_entropy,sentence_sar,cocoa,semantic_entropy+platt
tokens=base,verbalized,verbalized_expected,sequence_probability,msp,perplexity,min_token_probability,mean_token_entropy
tokens+=,token_margin,self_certainty,pmi,conditional_pmi,p_true,sequence_probability+platt
states=probe,linear_probe,saplma,attention_probe,confidence_probe,mahalanobis,relative_mahalanobis
all=${SEEDS:-0,1,2}
groups=("tokens $tokens $all 128" "states $states $all 512")
for method in sft r_tuning conrad conrad_exact; do groups+=("$method $method $all 512"); done
for seed in ${all//,/ }; do groups+=("sampling$seed $sampling $seed 512"); done
[ -n "${GROUPS_ONLY:-}" ] && mapfile -t groups < <(printf '%s\n' "${groups[@]}" | grep -E "^($GROUPS_ONLY) ")

run() { # METHODS SEEDS FOLDER [MORE...]
    local methods=$1 seeds=$2 folder=$3
    shift 3
    [ -n "${LIMIT:-}" ] && set -- "$@" --limit "$LIMIT"
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} conrad-bench run --config configs/real_vqa.yaml --methods "$methods" \
        --seeds "$seeds" --model "$work/taught" --data-root "vqa_rad=$work/split" --out "$folder" ${OPTIONS:-} "$@"
}

everything() { # every group at once, each in a folder of its own: first the questions as they are, then other pictures
    local group name methods seeds batch
    for group in "${groups[@]}"; do
        read -r name methods seeds batch <<<"$group"
        (
            run "$methods" "$seeds" "$work/parts/$name" -o "transformers.batch_size=$batch" "$@" >>"$work/logs/$name.log" 2>&1
            echo "-- $(date +%T) $name: exit code $?"
        ) &
        sleep 0.2
    done
    wait
}

collect() { # FOLDER: what finished groups have, in one run folder; sets `methods`
    local group name more seeds part what
    methods=""
    for group in "${groups[@]}"; do
        read -r name more seeds _ <<<"$group"
        part=$work/parts/$name
        [ -f "$part/manifest.json" ] || { echo "$name is not finished: left out"; continue; }
        methods=$methods,$more
        mkdir -p "$1"
        [ -f "$1/config.yaml" ] || cp "$part/config.yaml" "$1/"
        for what in records counterfactual artifacts rollouts pictures; do
            [ -d "$part/$what" ] && cp -r "$part/$what" "$1/"
        done
    done
    methods=$(tr , '\n' <<<"$methods" | awk 'NF && !seen[$0]++' | paste -sd,)
}

board() { # FOLDER [MORE...]: the board of what was collected; every record says what it was made from, and is checked
    local folder=$1
    shift
    run "$methods" "$all" "$folder" "$@" >"$work/logs/$(basename "$folder").log" 2>&1 && keep "$folder"
}

for pictures in ${STAGES:-none blank,swapped,noised}; do
    more=()
    [ "$pictures" = none ] || more=(--counterfactual "$pictures")
    last=$work/run-${pictures//,/-}
    [ -f "$last/manifest.json" ] && continue
    part "run, pictures: $pictures" everything "${more[@]}"
    part "collect" collect "$last"
    tar czf "$out/logs.tar.gz" -C "$work" logs
    part "board, pictures: $pictures" board "$last" "${more[@]}" & # beside the next stage
done
wait
tar czf "$out/logs.tar.gz" -C "$work" logs
[ -n "${PUBLISH:-}" ] && part "publish" conrad-bench publish "$last" --out "$work/bundle" &&
    tar czf "$out/bundle.tar.gz" -C "$work" bundle "$(basename "$last")/publish.salt"

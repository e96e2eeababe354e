#!/usr/bin/env bash
# The CUDA paths, one after the other, on a machine with a GPU: what it prints is what docs/gpu.md is to hold.
#
#     benchmarks/gpu.sh OUT [MODEL]    OUT: an empty folder; MODEL: a Gemma 3 with images, MedGemma 4B say (needs access)
#
# Needs: pip install -c constraints.txt ".[dev,quantization]" with a CUDA build of torch; parts that need vLLM are left
# out where it is not installed. A part that fails does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1
model=${2:-}
mkdir -p "$out"

part() {
    echo "== $1"
    shift
    local start=$SECONDS
    "$@" || echo "FAILED with exit code $?"
    echo "-- $((SECONDS - start)) s"
}

phantom=(conrad-bench run --tasks mimic_report -o phantom.studies=1000)
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
git rev-parse HEAD
part "doctor" conrad-bench doctor
part "rehearsal" conrad-bench rehearse --tasks mimic_report -o phantom.studies=1000 \
    --methods verbalized,p_true,probe,sft,conrad,conrad_exact --out "$out"
part "bfloat16 on the GPU, training included" \
    "${phantom[@]}" --methods verbalized,p_true,probe,sft,conrad,conrad_exact --out "$out/bfloat16"
part "float32 on the GPU" "${phantom[@]}" --methods verbalized,p_true,probe --out "$out/gpu-float32" \
    -o transformers.dtype=float32
part "float32 on the CPU: nearly the same numbers" "${phantom[@]}" --methods verbalized,p_true,probe \
    --out "$out/cpu-float32" -o transformers.device=cpu
part "joint training" "${phantom[@]}" --methods conrad --out "$out/joint" \
    -o conrad.mode=joint -o conrad.samples=160
part "4-bit weights" "${phantom[@]}" --methods verbalized,conrad --out "$out/nf4" -o transformers.quantization=nf4
part "the head on the confidence tokens: time and memory of a step" \
    python benchmarks/training.py --rollouts 64 --tokens 300
part "rollouts with transformers" python benchmarks/rollouts.py --engine transformers --prompts 512
part "two replicas that share the GPU" "${phantom[@]}" --methods verbalized,p_true --out "$out/replicas" \
    --ray local --replicas 2 --gpus-per-replica 0.5
if python -c "import vllm" 2>/dev/null; then
    part "vLLM's tests" pytest -q tests/test_engine_vllm.py
    part "rollouts with vLLM" python benchmarks/rollouts.py --engine vllm --prompts 512
    part "a run with vLLM" "${phantom[@]}" --engine vllm --methods verbalized,p_true,probe,conrad --out "$out/vllm"
fi
if [ -n "$model" ]; then
    # Random weights in the shape of MedGemma 4B under MODEL's processor: the size without the access.
    part "a model of 4 billion random weights" python benchmarks/random_model.py "$out/4b" --processor "$model"
    part "which is taught the format" python benchmarks/real_model.py "$out/4b" --teach "$out/taught" --teaching-steps 70
    part "its trainers" python benchmarks/real_model.py "$out/taught" --steps 4
    part "its rehearsal" conrad-bench rehearse --model "$out/taught" --tasks mimic_report -o phantom.studies=600 \
        --methods verbalized,p_true,conrad_exact --out "$out"
    part "$model in 4 bits" "${phantom[@]}" --model "$model" --limit 32 --methods verbalized,p_true,probe,conrad \
        --out "$out/model" -o transformers.quantization=nf4 -o transformers.batch_size=8 -o conrad.batch_size=16 \
        -o conrad.samples=64 -o probe.samples=64 -o probe.validation_samples=32
fi

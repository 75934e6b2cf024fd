#!/usr/bin/env bash
# Decoding on a GPU machine without network, within nine minutes:
#     scripts/gpu_generate.sh [FOLDER]
# Tests of captured graphs first, then equality and speed at full size with random weights (batch 1, 4, 16, 64; memory),
# a profile of a step, and the benchmark of all backends for the time that is left. All of it is in FOLDER/generate.log;
# `grep RESULT` gives the figures. Run it again to go on with the benchmark where it stopped.
set -u
cd "$(dirname "$0")/.."
out=${1:-${OUT:-gpu_generate}}
python=${PYTHON:-python}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}"
begun=$SECONDS
left() { echo $((530 - SECONDS + begun)); }
{
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    timeout 420 "$python" -m pytest -m gpu tests/generation/test_decoder_gpu.py -s -q -p no:cacheprovider 2>&1
    echo "tests: exit $?, $((SECONDS - begun)) s"
    if [ "$(left)" -gt 60 ]; then
        timeout "$(left)" "$python" -m deepsynth benchmark generate --model_name=deepsynth/full-size-ocr \
            --batch_sizes='[1, 16]' --num_pages=0 --resume=true --output="$out/generate.json" \
            --time_budget_s="$(($(left) - 20))" 2>&1
        echo "benchmark: exit $?, $((SECONDS - begun)) s"
    fi
} | tee "$out/generate.log"
grep RESULT "$out/generate.log"

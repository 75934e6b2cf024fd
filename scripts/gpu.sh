#!/usr/bin/env bash
# Run the GPU tests, then compare all backends on both models at full size with random weights. Needs no network.
#
#   scripts/gpu.sh [OUT]                   OUT (default runs/gpu) gets tests.txt and a folder with a report for each model
#   TESTS=none scripts/gpu.sh OUT          only the comparison; the same OUT resumes an interrupted one
#   MODELS=deepseek_ocr2_random BACKENDS="peft unsloth" scripts/gpu.sh OUT --only train     further options go to compare
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
shift || true
python=${PYTHON:-python3}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
mkdir -p "$out"
failed=0

if [[ ${TESTS:-all} != none ]]; then
  "$python" -m pytest -m gpu -s --deselect tests/modules/test_contract.py 2>&1 | tee "$out/tests.txt" || failed=1
  # Both modules against each other: Unsloth must be imported first, and compiling takes longer than a test.
  UNSLOTH_COMPILE_DISABLE=1 "$python" -c "import unsloth, sys, pytest; sys.exit(pytest.main(sys.argv[1:]))" \
    -m gpu -s tests/modules/test_contract.py 2>&1 | tee -a "$out/tests.txt" || failed=1
fi
files=()
for name in ${BACKENDS:-transformers_eager transformers peft peft_nf4 unsloth unsloth_4bit}; do
  files+=("configs/backend/$name.yaml")
done
for model in ${MODELS:-deepseek_ocr2_random deepseek_ocr_random}; do
  "$python" -m deepsynth compare --config "configs/model/$model.yaml" --backends "${files[@]}" --output "$out/$model" \
    --quality_steps 0 --memory_gib 24 --resume "$@" || failed=1
done
exit "$failed"

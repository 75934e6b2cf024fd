#!/usr/bin/env bash
# All rows of the comparison on a GPU machine without network: both models at full size with random weights, every
# backend, batches of 2 and 8, with the report of each. One call ends within 9 minutes; the same call goes on.
#
#   scripts/gpu_compare.sh                       into runs/compare/<model>/
#   scripts/gpu_compare.sh OUT                   elsewhere
#   scripts/gpu_compare.sh OUT --only train      some cells: further options go to deepsynth compare
#
# It begins no cell that could end too late, and says how many are left. With none left it writes the reports again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/compare}
shift || true
end=$((SECONDS + 530))
cell=170
files=()
for name in current transformers peft peft_nf4 unsloth unsloth_4bit; do files+=("configs/backend/$name.yaml"); done
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
for model in deepseek_ocr2_random deepseek_ocr_random; do
  left=$((end - SECONDS))
  if ((left < cell)); then
    echo "$model: no time is left; call this again"
    exit 0
  fi
  python3 -m deepsynth compare \
    --config "configs/model/$model.yaml" \
    --backends "${files[@]}" \
    --output "$out/$model" --resume \
    --batch_sizes 2 8 --generate_batch_sizes 1 16 \
    --steps 5 --warmup_steps 3 --repeats 3 --quality_steps 0 --memory_gib 24 \
    --cell_limit_s "$cell" --time_budget_s "$left" "$@"
done

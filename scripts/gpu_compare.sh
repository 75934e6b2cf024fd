#!/usr/bin/env bash
# All rows of the comparison on a GPU machine without network: both models at full size with random weights, every
# backend, batches of 2 and 8, with the report of each; what decides first. One call ends within 9 minutes; the same call
# goes on.
#
#   scripts/gpu_compare.sh [OUT]                    into OUT (runs/compare): MODEL.json, MODEL.html, MODEL.md, logs.txt
#   EARLIER=FOLDER scripts/gpu_compare.sh OUT       go on with the results of another call, in FOLDER
#   RETRY=1 scripts/gpu_compare.sh OUT              try those again that could not be measured
#   PARTS="train" MODELS="deepseek_ocr2_random" scripts/gpu_compare.sh OUT       some of it
#   CONFIG=FILE.yaml MODELS=name SMALL="--text_tokens 24 --new_tokens 4" scripts/gpu_compare.sh OUT     a rehearsal without a GPU
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu_results.sh"
models=${MODELS:-deepseek_ocr2_random deepseek_ocr_random}
take_over() {
  local model
  for model in $models; do
    mkdir -p "$work/$model"
    cp "$1/$model.json" "$work/$model/results.json" 2>/dev/null || true
  done
}
publish() {
  local model
  for model in $models; do
    cp "$work/$model/results.json" "$out/$model.json"
    cp "$work/$model/report.html" "$out/$model.html"
    cp "$work/$model/report.md" "$out/$model.md"
  done 2>/dev/null
}
begin "${1:-runs/compare}"
backends=(${BACKENDS:-current transformers peft peft_nf4 unsloth unsloth_4bit})
files=()
for name in "${backends[@]}"; do files+=("configs/backend/$name.yaml"); done

# ask MODEL LIMIT_S QUESTIONS BACKENDS   cells that are not there yet, as long as there is time
ask() {
  local model=$1 limit=$2 cells=() question name asked
  for name in $4; do
    [[ " ${backends[*]} " == *" $name "* ]] || continue
    for question in $3; do cells+=("$question/$name"); done
  done
  ((${#cells[@]})) || return 0
  asked=$([[ -n ${RETRY:-} ]] && echo "${cells[@]}" || missing "$work/$model/results.json" "${cells[@]}")
  [[ -n $asked ]] || return 0
  if (($(left) < limit + 10)); then
    echo "$model: no time is left for: $asked"
    return 0
  fi
  # shellcheck disable=SC2086
  timeout "$(left)" "$python" -m deepsynth compare --config "${CONFIG:-configs/model/$model.yaml}" \
    --backends "${files[@]}" --baseline "${backends[0]}" --output "$work/$model" --resume --only $asked \
    --batch_sizes 2 8 --generate_batch_sizes 1 16 --steps 5 --warmup_steps 3 --repeats 2 --quality_steps 0 \
    --memory_gib 24 --cell_limit_s "$limit" --time_budget_s "$(left)" ${SMALL:-} 2>>"$work/command.log"
}
slow="unsloth unsloth_4bit" quick="current transformers peft peft_nf4"
for part in ${PARTS:-train generate load fits phases}; do
  case $part in
    train) questions="train/batch=8 train/batch=2" ;;
    load) questions="load" ;;
    generate) questions="generate/batch=1 generate/batch=16" ;;
    fits) questions="longest_context largest_batch" ;;
    phases) questions="phases/batch=8 phases/batch=2" ;;
  esac
  for model in $models; do
    ask "$model" 150 "$questions" "$slow"  # Unsloth: import, write and read the random weights, compile
    ask "$model" 60 "$questions" "$quick"
  done
done
echo "$(left) s are left"

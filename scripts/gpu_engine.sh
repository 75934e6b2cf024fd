#!/usr/bin/env bash
# Every option of the training engine (docs/training_engine.md) beside Unsloth on a GPU machine without network:
# DeepSeek-OCR-2 at full size with random weights, batches of 2, 8 and 32, one option changed at a time, what decides
# first. One call ends within 9 minutes; the same call goes on where it stopped.
#
#   scripts/gpu_engine.sh [OUT]                                  into OUT (runs/engine): options.json, context.json, logs.txt
#   EARLIER=FOLDER scripts/gpu_engine.sh OUT                     go on with the results of another call, in FOLDER
#   MODEL=deepsynth/full-size-ocr scripts/gpu_engine.sh OUT      the other family (another OUT)
#   ONLY="auto cache" scripts/gpu_engine.sh OUT                  some options
#   RETRY=1 scripts/gpu_engine.sh OUT                            try those again that could not be measured
#   MODEL=deepsynth/tiny-random TOKENS=24 LONG=48 BATCHES="1 2" scripts/gpu_engine.sh OUT     a rehearsal without a GPU
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu_results.sh"
take_over() { cp "$1"/options.json "$1"/context.json "$work" 2>/dev/null || true; }
publish() { cp "$work"/options.json "$work"/context.json "$out" 2>/dev/null; }
begin "${1:-runs/engine}"
model=${MODEL:-deepsynth/full-size-ocr-2}
batches=${BATCHES:-8 2 32}
mkdir -p "$work/options"

# option NAME LIMIT_S BATCHES SETTINGS...   a fit configuration with these settings of the module, and its cells
names=() cells_slow=() cells_quick=()
option() {
  local name=$1 limit=$2 sizes=$3 kind="" size
  [[ -z ${ONLY:-} || " $ONLY " == *" $name "* ]] || return 0
  case $4 in
    *.yaml) cp "$4" "$work/options/$name.yaml" ;;
    *) printf 'model: {class_path: PeftModule, init_args: {%s}}\n' "$4" >"$work/options/$name.yaml" ;;
  esac
  [[ $4 == *vision_cache* ]] && kind=/repeated
  names+=("$work/options/$name.yaml")
  for size in $sizes; do
    [[ " $batches " == *" $size "* ]] || continue
    if ((limit > 60)); then cells_slow+=("train/batch=$size$kind/$name"); else cells_quick+=("train/batch=$size$kind/$name"); fi
  done
}
# Seconds: loading and the first cell, at most. What decides comes first: ours beside Unsloth, then the least memory.
option unsloth 160 "8 2" configs/backend/unsloth.yaml
option compile-all 120 "$batches" "activation_memory: none, compile: all"
option cache-compiled 120 "$batches" "activation_memory: none, vision_cache: memory, compile: decoder"
option unsloth-none 160 "8 2" configs/backend/unsloth_none.yaml
option unsloth_4bit 160 2 configs/backend/unsloth_4bit.yaml
option auto 60 "$batches" ""
option none 60 "$batches" "activation_memory: none"
option cache 60 "$batches" "activation_memory: none, vision_cache: memory"
option nf4-smallest 60 "2" "quantization: nf4, activation_memory: full, vision_chunk: 1"
option nf4 60 "2 8" "quantization: nf4, activation_memory: none"
option full 60 "$batches" "activation_memory: full"
option selective 60 "8 32" "activation_memory: selective"
option chunked 60 "8 32" "activation_memory: none, loss: chunked"
option plain 60 "8" "activation_memory: none, loss: plain"
option plain-eager 60 "8" "activation_memory: none, loss: plain, experts_implementation: eager"
option eager-attention 60 "8" "activation_memory: none, attn_implementation: eager"
option flash-4 60 "8 32" "activation_memory: none, attn_implementation: flash_attention_4"  # where flash-attn-4 is installed
option vision-chunk-1 60 "8" "activation_memory: none, vision_chunk: 1"
option vision-chunk-4 60 "8 32" "activation_memory: none, vision_chunk: 4"
option vision-chunk-16 60 "32" "activation_memory: none, vision_chunk: 16"
option offload 60 "8" "activation_memory: offload"
option compile-vision 120 "8 32" "activation_memory: none, compile: vision"
option compile-decoder 120 "8" "activation_memory: none, compile: decoder"
option experts 60 "8" "activation_memory: none, lora_experts: all"
option experts-of-peft 60 "8" "activation_memory: none, lora_experts: all, experts_implementation: grouped_mm"
option cuda-graphs 60 "2 8" "activation_memory: none, compile: all, cuda_graphs: true"

# measure OUTPUT LIMIT_S TEXT_TOKENS CELL...
measure() {
  local output=$1 limit=$2 tokens=$3 asked
  shift 3
  asked=$([[ -n ${RETRY:-} ]] && echo "$@" || missing "$output" "$@")
  [[ -n $asked ]] || return 0
  if (($(left) < limit + 10)); then
    echo "no time is left for: $asked"
    return 0
  fi
  # shellcheck disable=SC2086
  timeout -k 5 "$(left)" "$python" -m deepsynth benchmark train --model_name "$model" --backends "${names[@]}" \
    --batch_sizes ${BATCH_SIZES:-$batches} --pages new repeated --text_tokens "$tokens" --steps 5 --warmup_steps 3 --repeats 2 \
    --only $asked --resume --output "$output" --cell_limit_s "$limit" --time_budget_s "$(left)" 2>>"$work/command.log"
}
# One of the slow ones, then the quick ones that it is compared with, then the rest.
chosen() { # CELL... whose name ends in one of the options of $pick
  local cell
  for cell in "$@"; do [[ " $pick " == *" ${cell##*/} "* ]] && echo "$cell"; done
}
long=()
for name in full nf4-smallest; do [[ -e $work/options/$name.yaml ]] && long+=("train/batch=1/$name"); done
pick="unsloth" && measure "$work/options.json" 160 "${TOKENS:-768}" $(chosen "${cells_slow[@]}")
pick="auto cache nf4-smallest" && measure "$work/options.json" 60 "${TOKENS:-768}" $(chosen "${cells_quick[@]}")
((${#long[@]})) && BATCH_SIZES=1 measure "$work/context.json" 60 "${LONG:-7908}" "${long[@]}"
pick="unsloth-none unsloth_4bit compile-all cache-compiled" && measure "$work/options.json" 160 "${TOKENS:-768}" $(chosen "${cells_slow[@]}")
measure "$work/options.json" 60 "${TOKENS:-768}" "${cells_quick[@]}"
measure "$work/options.json" 120 "${TOKENS:-768}" "${cells_slow[@]}"
echo "$(left) s are left"

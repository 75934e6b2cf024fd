#!/usr/bin/env bash
# Every option of the training engine (docs/training_engine.md) on a GPU machine without network: DeepSeek-OCR-2 at full
# size with random weights, batches of 2, 8 and 32, one option changed at a time. One call ends within 9 minutes; the
# same call goes on where it stopped.
#
#   scripts/gpu_engine.sh                           into runs/engine/
#   scripts/gpu_engine.sh OUT                       elsewhere
#   scripts/gpu_engine.sh OUT --only batch=8        some cells: further options go to both deepsynth benchmark train
#   scripts/gpu_engine.sh OUT --model_name deepsynth/full-size-ocr        the other family (another OUT)
#
# The first call also runs the GPU tests of the engine: equal losses with liger-kernel, compilation, packing, offloading.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/engine}
shift || true
end=$((SECONDS + 530))
mkdir -p "$out/options"
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1

# option NAME KEY: VALUE, ...   writes a fit configuration with these settings of the module
option() {
  printf 'model: {class_path: PeftModule, init_args: {%s}}\n' "$2" >"$out/options/$1.yaml"
}
option plain "loss: plain, activation_memory: none, experts_implementation: eager"
option plain-grouped "loss: plain, activation_memory: none"
option auto ""
option none "activation_memory: none"
option selective "activation_memory: selective"
option full "activation_memory: full"
option offload "activation_memory: offload"
option chunked "activation_memory: none, loss: chunked"
for pages in 1 2 8 16; do option "vision-chunk-$pages" "activation_memory: none, vision_chunk: $pages"; done
option compile-vision "activation_memory: none, compile: vision"
option compile-decoder "activation_memory: none, compile: decoder"
option compile-all "activation_memory: none, compile: all"
option cuda-graphs "activation_memory: none, compile: all, cuda_graphs: true"
option cache "activation_memory: none, vision_cache: memory"
option cache-compiled "activation_memory: none, vision_cache: memory, compile: decoder"
option budget-8 "memory_budget_gib: 8.0"

if [[ ! -e $out/tests.txt ]]; then
  timeout 240 python3 -m pytest -m gpu -q tests/models tests/test_optim.py 2>&1 | tee "$out/tests.part" || true
  mv "$out/tests.part" "$out/tests.txt"
fi
measure() { # OUTPUT OPTION_FILES... -- FURTHER_OPTIONS...
  local output=$1 files=()
  shift
  while [[ $1 != -- ]]; do files+=("$1") && shift; done
  shift
  local left=$((end - SECONDS))
  if ((left < 100)); then
    echo "$output: no time is left; call this again"
    exit 0
  fi
  python3 -m deepsynth benchmark train --model_name deepsynth/full-size-ocr-2 --backends "${files[@]}" \
    --output "$output" --resume --cell_limit_s 100 --time_budget_s "$left" "$@"
}
new=() repeated=()
for file in "$out"/options/*.yaml; do
  case $file in */cache*) repeated+=("$file") ;; *) new+=("$file") ;; esac
done
measure "$out/options.json" "${new[@]}" -- "$@"
measure "$out/cache.json" "${repeated[@]}" "$out/options/none.yaml" -- --pages repeated "$@"

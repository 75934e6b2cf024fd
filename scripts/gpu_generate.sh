#!/usr/bin/env bash
# Decoding on a GPU machine without network, at full size with random weights; what decides first. One call ends within
# 9 minutes; the same call goes on where it stopped.
#
#   scripts/gpu_generate.sh [OUT]                  into OUT (runs/generate): tests.txt, decoding.jsonl, generate.json, logs.txt
#   EARLIER=FOLDER scripts/gpu_generate.sh OUT     go on with the results of another call, in FOLDER
#   PARTS="tests speed" scripts/gpu_generate.sh OUT        some of: tests speed backends parity profile compiled vision all
#   MODEL=deepsynth/full-size-ocr-2 scripts/gpu_generate.sh OUT      the other family (another OUT)
#   MODEL=deepsynth/tiny-random SIZES="1 2" TOKENS=8 PAGES=4 scripts/gpu_generate.sh OUT     a rehearsal without a GPU
#
# tests      captured graphs write what single steps and transformers write
# speed      first token, ms a token, tokens/s, peak: ours and transformers' at 1 and 16 (no adapter)
# backends   the same through `deepsynth benchmark generate`, with adapters: ours, in 4 bits, and Unsloth's
# parity     greedy ids of 100 pages beside transformers', in float32 and in bfloat16; where texts part, the logits of
#            both tokens
# profile    kernels by time; compiled: steps under torch.compile; vision: chunks of 1, 2, 4, 8, compiled or not
# all        batches of 4 and 64, and the tests that compile
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu_results.sh"
take_over() { cp "$1"/tests.txt "$1"/decoding.jsonl "$1"/generate.json "$work" 2>/dev/null || true; }
publish() { cp "$work"/tests.txt "$work"/decoding.jsonl "$work"/generate.json "$out" 2>/dev/null; }
begin "${1:-runs/generate}"
export PYTHONPATH="$PYTHONPATH:."
model=${MODEL:-deepsynth/full-size-ocr}
sizes=${SIZES:-1 16}
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader >"$work/machine.log" 2>&1 || true

run_tests() { # LIMIT_S WHICH
  (($(left) > 30)) || return 0
  timeout "$(least "$1")" "$python" -m pytest -m gpu tests/generation/test_decoder_gpu.py -k "$2" -s -q -rA -p no:cacheprovider \
    >>"$work/tests.txt" 2>&1
  echo "tests ($2): exit $?, $(left) s are left" | tee -a "$work/tests.txt"
}
study() { # LIMIT_S PART...
  local limit=$1
  shift
  (($(left) > 30)) || { echo "no time is left for: $*" && return 0; }
  # shellcheck disable=SC2086
  timeout "$(least "$limit")" "$python" scripts/measure_decoding.py "$work/decoding.jsonl" --model "$model" --parts "$@" \
    --sizes ${ALL_SIZES:-$sizes} --tokens "${TOKENS:-128}" --pages "${PAGES:-100}" 2>&1 | tee -a "$work/study.log" | grep RESULT
  echo "$*: exit ${PIPESTATUS[0]}, $(left) s are left"
}
least() { (($1 < $(left))) && echo "$1" || left; }
ask() { # LIMIT_S BACKEND...   cells that are not there yet, as long as there is time
  local limit=$1 cells=() asked name size
  shift
  for name in "$@"; do for size in $sizes; do cells+=("generate/batch=$size/$name"); done; done
  asked=$(missing "$work/generate.json" "${cells[@]}")
  [[ -n $asked ]] || return 0
  (($(left) > limit + 10)) || { echo "no time is left for: $asked" && return 0; }
  # shellcheck disable=SC2086
  timeout "$(left)" "$python" -m deepsynth benchmark generate --model_name "$model" --batch_sizes $sizes --num_pages 0 \
    --new_tokens "${TOKENS:-128}" --backends configs/backend/{peft,peft_nf4,transformers,unsloth,unsloth_4bit}.yaml \
    --only $asked --resume --output "$work/generate.json" --cell_limit_s "$limit" --time_budget_s "$(left)" \
    2>>"$work/command.log"
}
for part in ${PARTS:-tests speed backends parity profile vision compiled all}; do
  case $part in
    tests) grep -qs "tests (not compiled): exit 0" "$work/tests.txt" || run_tests 120 "not compiled" ;;
    backends)
      ask 90 peft         # the first page waits for vision to be compiled
      ask 110 unsloth      # import, write and read the random weights, compile
      ask 60 peft_nf4
      ask 110 unsloth_4bit
      ask 60 transformers
      ;;
    all)
      ALL_SIZES="4 64" study 300 speed
      grep -qs "tests (compiled): exit 0" "$work/tests.txt" || run_tests 240 compiled
      ;;
    parity)
      study 120 parity --dtype float32
      study 120 parity
      ;;
    *) study 300 "$part" ;;
  esac
done
echo "$(left) s are left"

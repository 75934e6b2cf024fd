#!/usr/bin/env bash
# Several GPUs against one, at full size with random weights, without a network: as many of 1, 2 and 4 GPUs as there are.
# Figures are the lines RESULT {...} in $OUT/results.txt.
#
#   bash scripts/gpu_distributed.sh
#   DEVICE=cpu GPUS="1 2" MODEL=deepsynth/tiny-random STEPS=3 CHARS=60 PARTS="same speed memory full" bash scripts/gpu_distributed.sh
#
# PARTS: same (one global batch on 1, 2 and 4: losses and adapter), speed (batch 8 a GPU, data for free), memory (FSDP2
# against one GPU), full (all weights of the 3 B model, AdamW on float32 master weights).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu_distributed} DEVICE=${DEVICE:-cuda} MODEL=${MODEL:-deepsynth/full-size-ocr} STEPS=${STEPS:-50}
CHARS=${CHARS:-1500} PARTS=${PARTS:-same speed memory full} PYTHON=${PYTHON:-python3} BATCH=${BATCH:-8}
WORK=${WORK:-$(mktemp -d)}
if [ -z "${GPUS:-}" ]; then
  there=$(nvidia-smi -L | wc -l) GPUS=""
  for count in 1 2 4; do [ "$count" -le "$there" ] && GPUS="$GPUS $count"; done
fi
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}src" OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TOKENIZERS_PARALLELISM=false
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"

# train PROCESSES NAME ARGUMENTS...: the log goes to $OUT/NAME.log
train() {
  local processes=$1 name=$2
  shift 2
  echo "== $name" | tee -a "$OUT/results.txt"
  "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$processes" scripts/gpu_distributed.py train \
    --device "$DEVICE" --model "$MODEL" --steps "$STEPS" --chars "$CHARS" --out "$WORK/$name" "$@" >"$OUT/$name.log" 2>&1 ||
    echo "FAILED $name: $(grep -m1 -E 'deepsynth:|Error' "$OUT/$name.log")" | tee -a "$OUT/results.txt"
  grep RESULT "$OUT/$name.log" | tee -a "$OUT/results.txt"
}
compare() {
  "$PYTHON" scripts/gpu_distributed.py compare "$WORK/$1" "$WORK/$2" 2>>"$OUT/compare.log" | grep RESULT |
    sed "s#$WORK/##g" | tee -a "$OUT/results.txt"
}

for part in $PARTS; do
  for count in $GPUS; do
    strategy=ddp
    [ "$count" = 1 ] && strategy=one
    case $part in
      same)
        train "$count" "same-$count" --strategy $strategy --batch $((2 * BATCH / count)) --workers 4
        [ "$count" = 1 ] || compare same-1 "same-$count"
        ;;
      speed)
        train "$count" "speed-$count" --strategy $strategy --batch "$BATCH" --repeat
        [ "$count" = 1 ] || compare speed-1 "speed-$count"
        [ "$count" = 2 ] && train 2 speed-2-static --strategy ddp --static_graph --batch "$BATCH" --repeat
        ;;
      memory)
        strategy=fsdp2
        [ "$count" = 1 ] && strategy=one
        train "$count" "memory-$count" --strategy $strategy --batch "$BATCH" --repeat --activation_memory full
        [ "$count" = 1 ] || compare memory-1 "memory-$count"
        ;;
      full)
        [ "$count" = 1 ] || train "$count" "full-$count" --strategy fsdp2 --module full --batch 2 --repeat \
          --activation_memory full --lr 1e-5
        ;;
    esac
  done
done

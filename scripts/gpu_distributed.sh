#!/usr/bin/env bash
# Several GPUs against one, at full size with random weights, without a network: as many of 1, 2 and 4 as there are.
# Every run adds a line to OUT/results.jsonl as soon as it has ended; one that fails is named there and the next begins.
# One call ends within 10 minutes; the same call goes on with the runs that are not there, and tries failed ones again.
#
#   bash scripts/gpu_distributed.sh                  into runs/gpu_distributed/
#   bash scripts/gpu_distributed.sh OUT              elsewhere
#   DEVICE=cpu GPUS="1 2" MODEL=deepsynth/tiny-random STEPS=4 FEW=3 BATCH=2 CHARS=60 bash scripts/gpu_distributed.sh OUT
#
# PARTS, the most wanted first: same (one global batch on 1, 2 and 4: losses and adapter), speed (batch 8 a GPU, data
# for free), full (all weights of the 3 B model, AdamW on float32 master weights), memory (FSDP2 against one GPU), nf4
# (base of 4 bits with DDP), unsloth (its module with DDP), static (DDP told that no step differs from the first).
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu_distributed}
DEVICE=${DEVICE:-cuda} MODEL=${MODEL:-deepsynth/full-size-ocr} STEPS=${STEPS:-50} FEW=${FEW:-8} CHARS=${CHARS:-1500}
BATCH=${BATCH:-8} PARTS=${PARTS:-same speed full memory nf4 unsloth static} PYTHON=${PYTHON:-python3}
LR=${LR:-1e-4} LIMIT_S=${LIMIT_S:-570} RUN_S=${RUN_S:-150}
if [ -z "${GPUS:-}" ]; then
  there=$(nvidia-smi -L | wc -l) GPUS=""
  for count in 1 2 4; do [ "$count" -le "$there" ] && GPUS="$GPUS $count"; done
fi
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}src" OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TOKENIZERS_PARALLELISM=false
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# All processes are on this machine, whose name may lead nowhere.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
work=${WORK:-runs/gpu_distributed_work}
mkdir -p "$out" "$work"
touch "$out/results.jsonl"

# train PROCESSES NAME ARGUMENTS...: what it says goes to OUT/log.txt
train() {
  local count=$1 name=$2 left=$((LIMIT_S - SECONDS)) log="$work/$2.log"
  shift 2
  if grep -q "\"name\": \"$name\", \"strategy\"" "$out/results.jsonl"; then return; fi
  if ((left < RUN_S)); then
    echo "$name: no time is left; call this again"
    return
  fi
  echo "== $name ($SECONDS s)"
  timeout -k 10 "$RUN_S" "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$count" \
    scripts/gpu_distributed.py --device "$DEVICE" --model "$MODEL" --chars "$CHARS" --out "$out" --work "$work" \
    --name "$name" "$@" >"$log" 2>&1
  local code=$?
  if ((code)); then
    printf '{"name": "%s", "failed": %d}\n' "$name" "$code" >>"$out/results.jsonl"
    grep -m3 -E 'deepsynth:|Error' "$log"
  fi
  grep "^{" "$log"
  { echo "== $name, exit code $code"; tail -c 100000 "$log"; } >>"$out/log.txt"
}

for part in $PARTS; do
  for count in $GPUS; do
    one=one sharded=one against=()
    ((count > 1)) && one=ddp sharded=fsdp2 against=(--against "$part-1")
    case $part in
      same) train "$count" "same-$count" --strategy $one --batch $((2 * BATCH / count)) --steps "$STEPS" \
        --lr "$LR" --workers "${WORKERS:-4}" "${against[@]}" ;;
      speed) train "$count" "speed-$count" --strategy $one --batch "$BATCH" --steps "$STEPS" --repeat "${against[@]}" ;;
      full) ((count > 1)) && train "$count" "full-$count" --strategy fsdp2 --module full --batch 2 --steps "$FEW" \
        --repeat --activation_memory full --lr 1e-5 ;;
      memory) train "$count" "memory-$count" --strategy $sharded --batch "$BATCH" --steps "$FEW" --repeat \
        --activation_memory full "${against[@]}" ;;
      nf4) train "$count" "nf4-$count" --strategy $one --batch "$BATCH" --steps "$FEW" --quantization nf4 --repeat \
        --experts routed "${against[@]}" ;;
      unsloth) ((count == 2)) && train 2 unsloth-2 --strategy ddp --module unsloth --batch "$BATCH" --steps "$FEW" \
        --repeat ;;
      static) ((count == 2)) && train 2 static-2 --strategy ddp --static_graph --batch "$BATCH" --steps "$STEPS" \
        --repeat --against speed-2 ;;
    esac
  done
done

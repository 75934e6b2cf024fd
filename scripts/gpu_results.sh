# Sourced by the scripts for GPU machines. Results are made in $work and copied to $out every few seconds, few files and
# logs as one, so that what ends the machine loses nothing.
#
#   begin OUT         $work, $out, the clock and the environment; takes over results of earlier calls in $EARLIER
#   left              seconds until this call should end
#   missing FILE CELL...   those of the cells that are not in a file of results
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}src" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

begin() {
  out=$1 work=${WORK:-$1.work} end=$((SECONDS + ${SECONDS_IN_ALL:-540}))
  mkdir -p "$out" "$work"
  if [[ -n ${EARLIER:-} ]]; then take_over "$EARLIER"; else take_over "$out"; fi
  publish_all() {
    publish
    find "$work" -name '*.log' -size +0 -printf '%T@ %p\n' | sort -n | cut -d' ' -f2- | while read -r log; do
      echo "===== $log"
      tail -c 400000 "$log"
    done >"$out/logs.part" && tail -c 12000000 "$out/logs.part" >"$out/logs.txt" && rm "$out/logs.part"
  }
  (while sleep 5; do publish_all 2>/dev/null; done) &
  publisher=$!
  trap 'kill "$publisher" 2>/dev/null; wait "$publisher" 2>/dev/null; publish_all' EXIT
}

left() { echo $((end - SECONDS)); }

missing() {
  "$python" - "$@" <<'PYTHON'
import json, pathlib, sys

file, *cells = sys.argv[1:]
done = json.loads(pathlib.Path(file).read_text())["cells"] if pathlib.Path(file).exists() else {}
print(*(cell for cell in cells if cell not in done))
PYTHON
}

#!/usr/bin/env bash
# The GPU tests of training on a machine without network, the quick ones first, each part within its own time.
#
#   scripts/gpu_tests.sh [OUT]                      into OUT (runs/gpu_tests): tests.txt with every traceback
#   PARTS="engine full" scripts/gpu_tests.sh OUT    some of them
#
# engine: losses and gradients with liger-kernel, compilation, packing, offloading; the optimizer; callbacks.
# contract: both backends give the same numbers, with Unsloth itself. full: 4 bits at full size, its loss beside 16 bits.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu_results.sh"
take_over() { :; }
publish() { cat "$work"/*.txt >"$out/tests.txt"; }
begin "${1:-runs/gpu_tests}"
rm -f "$work"/*.txt

# part NAME SECONDS PYTEST_ARGUMENTS...
part() {
  local name=$1 limit=$2 first="import sys, pytest"
  shift 2
  [[ -z ${PARTS:-} || " $PARTS " == *" $name "* ]] || return 0
  (($(left) < limit)) && limit=$(left)
  if ((limit < 20)); then
    echo "$name: no time is left"
    return 0
  fi
  if [[ $name == contract ]]; then
    first="import unsloth, sys, pytest"        # it wants to be first
    export UNSLOTH_COMPILE_DISABLE=1           # compiling takes longer than a test, and is for speed
  fi
  timeout -s INT -k 10 "$limit" "$python" -c "$first; sys.exit(pytest.main(sys.argv[1:]))" \
    -m "${MARK:-gpu}" -s -p no:cacheprovider --tb=long --color=no "$@" >"$work/$name.txt" 2>&1
  echo "$name: exit $?, $(left) s are left"
  tail -n 25 "$work/$name.txt"
}
part engine 240 tests/models tests/modules/test_optim.py tests/callbacks
part contract 240 tests/modules/test_contract.py
part full 420 tests/modules/test_full_size.py -k "ocr-2 and (learns or (small and 2-) or adapters)"

#!/bin/bash
# Replay the committed corpus of every fuzz target: tests/fuzz/fuzz_X.c over tests/fuzz/corpus/X/.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build/release}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bad=0
for src in tests/fuzz/fuzz_*.c; do
    x=${src#tests/fuzz/fuzz_} x=${x%.c}
    if [ ! -d "tests/fuzz/corpus/$x" ]; then
        echo "not ok - fuzz corpus $x: tests/fuzz/corpus/$x is missing"; bad=1
    elif "$B/tests/fuzz/replay_$x" "tests/fuzz/corpus/$x" >"$out" 2>&1; then
        echo "ok - fuzz corpus $x ($(tail -n1 "$out"))"
    else
        echo "not ok - fuzz corpus $x: exit $? at $(grep ^tests/ "$out" | tail -n1)"; bad=1
        tail -n 40 "$out"
    fi
done
exit $bad

#!/bin/bash
# A short soak (tests/bench/soak.sh): 200 requests of clients that close, reset, send half or stop reading; nothing stays behind.
. "${0%/*}/lib.sh"
it_need python3
cd "$REPO" || exit 1
# memory says nothing under a sanitizer, which keeps what was freed
[[ $IT_SLOW == 1 ]] || export SOAK_NO_RSS=1
check "200 requests with random disconnects leave nothing behind" tests/bench/soak.sh 200 >"$IT/out" 2>"$IT/err"
grep -E '^(not )?ok - ' "$IT/out"
check "what they had in common was computed once" grep -qE '"tokens_cached": [1-9][0-9]{3}' "$IT/out"
check "sequences end with their clients: in the queue, in a prompt, in an answer" fails grep -qE '"(queue|prefill|decode)": -1' "$IT/out"
sed -n 's/^{"requests.*"outlived_ms": /# they outlived them by (ms) /p' "$IT/out"

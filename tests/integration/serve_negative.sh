#!/bin/bash
# cake-master serve: more than 200 requests that no client should send. Each is answered with a 4xx and the error object (or,
# where bytes are no HTTP, the connection is closed), never with a 5xx, never not at all.
. "${0%/*}/lib.sh"
it_need python3
spawn 0 main "$BIN/cake-master" serve --model "$REPO/tests/models/stories260K-hf" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 \
    --chat-template "$REPO/tests/integration/hermes.jinja"
check "the server starts" wait_log main 20 'Serving .* on http' || exit 1
URL=$(grep -oE 'http://[0-9.:]+' "$IT/main.log" | tail -1)
timeout $((100 * IT_SLOW)) python3 "$REPO/tests/integration/serve_negative.py" "$URL" >"$IT/results" 2>&1 ||
    echo "not ok - serve_negative.py: $(tail -n 3 "$IT/results" | tr '\n' ' ')" >>"$IT/results"
grep -E '^(ok|not ok) - ' "$IT/results"
if grep -q '^not ok' "$IT/results"; then IT_FAILED=1; fi
check "it stops on request" stop main TERM 10
exit $IT_FAILED

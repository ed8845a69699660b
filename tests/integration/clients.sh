#!/bin/bash
# The client libraries people use against cake-master serve, as tests/clients/install.sh put them into build/clients.
. "${0%/*}/lib.sh"
it_need python3 curl
C=$REPO/build/clients
if ! "$C/venv/bin/python" -c 'import openai, anthropic' 2>/dev/null; then
    skip "clients: openai and anthropic for Python are missing (tests/clients/install.sh)"
    exit 0
fi
export CAKE_API_KEY=test-key-0123456789
spawn 0 main "$BIN/cake-master" serve --model "$REPO/tests/models/stories260K-hf" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 \
    --chat-template "$REPO/tests/integration/hermes.jinja"
unset CAKE_API_KEY
check "the server starts" wait_log main 20 'Serving .* on http' || exit 1
URL=$(grep -oE 'http://[0-9.:]+' "$IT/main.log" | tail -1)
# results COMMAND...: its "ok - " lines are ours; more than a dozen seconds is a hang
results() {
    timeout $((60 * IT_SLOW)) "$@" >"$IT/results" 2>&1 || echo "not ok - $2: $(tail -n 3 "$IT/results" | tr '\n' ' ')" >>"$IT/results"
    grep -E '^(ok|not ok) - ' "$IT/results"
    if grep -q '^not ok' "$IT/results"; then IT_FAILED=1; fi
}
results "$C/venv/bin/python" "$REPO/tests/clients/clients.py" "$URL" test-key-0123456789
if command -v node >/dev/null && [[ -d $C/node_modules/openai ]]; then
    results node "$C/openai.mjs" "$URL" test-key-0123456789
else
    skip "clients: node or its openai package is missing (tests/clients/install.sh)"
fi
gone_all() { [[ $(curl -s -H 'Authorization: Bearer test-key-0123456789' "$URL/metrics" | awk '$1 == "cake_requests_running" {print $2}') == 0 ]]; }
check "nothing runs on behind them" wait_until 5 gone_all
check "it stops on request" stop main TERM 10
exit $IT_FAILED

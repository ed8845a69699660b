#!/bin/bash
# cake-master serve: tool calls, JSON answers, thinking, in streams and whole; the model writes nonsense, so what is tested is
# the form, which grammars enforce.
. "${0%/*}/lib.sh"
it_need python3
MODEL=$REPO/tests/models/stories260K-hf
spawn 0 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 \
    --chat-template "$REPO/tests/integration/hermes.jinja"
check "the server starts" wait_log main 20 'Serving .* on http' || exit 1
URL=$(grep -oE 'http://[0-9.:]+' "$IT/main.log" | tail -1)
python3 "$REPO/tests/integration/serve_forms.py" "$URL" >"$IT/results" 2>&1 || echo "not ok - serve_forms.py: $(tail -n 3 "$IT/results" | tr '\n' ' ')" >>"$IT/results"
grep -E '^(ok|not ok) - ' "$IT/results"
grep -q '^not ok' "$IT/results" && IT_FAILED=1
check "it stops on request" stop main TERM 10
exit $IT_FAILED

#!/bin/bash
# The web page in headless Chromium: a real server, two real workers (tests/browser/page.py). SHOTS=FOLDER keeps screenshots.
. "${0%/*}/lib.sh"
it_need curl python3
if ! (cd "$REPO/tests/browser" && python3 -c 'import sys, browser; sys.exit(browser.program() is None)'); then
    skip "$TEST: no Chromium (deploy/install-deps.sh --browser)"
    exit 0
fi
it_sandbox "$@"
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
MODEL=${PAGE_MODEL:-$REPO/tests/models/babyllama105-hf}
printf '{%% for m in messages %%}{{ m.content }}{%% if not loop.last %%} {%% endif %%}{%% endfor %%}' >"$IT/chat.jinja"
printf 'a-key-of-this-test\n' >"$IT/keys"
for i in 2 3; do worker $i "w$i" --threads 1; done
for i in 2 3; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done
printf 'w2:\n  host: "%s:10128"\n  layers: ["model.layers.0-1"]\nw3:\n  host: "%s:10128"\n  layers: ["model.layers.2-%s"]\n' \
    "$(address 2)" "$(address 3)" "${PAGE_LAST_LAYER:-4}" >"$IT/topology.yml"
spawn 1 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:8080 --topology "$IT/topology.yml" \
    --cluster-key-file "$IT_KEY" --threads 1 --sequences 2 --discovery-timeout $((10 * IT_SLOW)) --chat-template "$IT/chat.jinja"
spawn 1 keyed "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:8081 --discovery-timeout 0 --threads 1 --sequences 1 \
    --api-key-file "$IT/keys" --chat-template "$IT/chat.jinja"
check "a server" wait_log main 60 'Serving .* on http' || exit 1
check "one with a key" wait_log keyed 20 'Serving .* on http' || exit 1

U=http://127.0.0.1:8080
fetch() { on 1 curl -s -m 20 "$@"; }
fetch -D "$IT/head" $U/ >"$IT/page.html"
check "nothing is fetched from elsewhere" fails grep -qE '(src|href)="(https?:)?//' "$IT/page.html"
check "a strict policy" grep -qE "^Content-Security-Policy: default-src 'none'; script-src 'sha256-[^ ]+'; style-src 'sha256-[^ ]+'; " "$IT/head"
same "it is not sent twice" 304 "$(fetch -o /dev/null -w '%{http_code}' -H "If-None-Match: $(awk '/^ETag/ {print $2}' "$IT/head" | tr -d '\r')" $U/)"
same "without a key too" 200 "$(fetch -o /dev/null -w '%{http_code}' http://127.0.0.1:8081/)"
same "but only the page" 401 "$(fetch -o /dev/null -w '%{http_code}' http://127.0.0.1:8081/api/v1/topology)"

shape 3 16mbit # its layers, sent again after its end, take a second
it_on 3
IT_SLOW=$IT_SLOW on 1 timeout $((150 * IT_SLOW)) env PYTHONPATH="$REPO/tests/browser" PYTHONDONTWRITEBYTECODE=1 SHOTS="${SHOTS-}" IT_SLOW="$IT_SLOW" \
    python3 "$REPO/tests/browser/page.py" $U http://127.0.0.1:8081 a-key-of-this-test "$(pid_of w2)" "$(pid_of w3)" \
    "${IT_ON[@]}" "$BIN/cake-worker" --name w3 --cluster-key-file "$IT_KEY" --cache "$IT/cache-again" --threads 1 >"$IT/browser" 2>"$IT/browser.log"
rc=$?
cat "$IT/browser"
[[ $rc == 0 || $rc == 1 && ! -s $IT/browser.log ]] || not_ok "page.py ended with $rc: $(tail -n 3 "$IT/browser.log" | tr '\n' ' ')"
if grep -q '^not ok' "$IT/browser"; then IT_FAILED=1; fi
check "it stops on request" stop main TERM 10

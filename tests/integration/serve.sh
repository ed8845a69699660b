#!/bin/bash
# cake-master serve: a real server on 127.0.0.1 and curl: answers, streams, errors, limits, many clients at once, clients that
# leave, keys.
. "${0%/*}/lib.sh"
it_need curl python3
MODEL=$REPO/tests/models/babyllama105-mlx-4bit-g64
printf '{%% for m in messages %%}{{ m.content }}{%% if not loop.last %%} {%% endif %%}{%% endfor %%}' >"$IT/chat.jinja"

# serve NAME ARG...: start a server on a free port and wait for it; sets URL
serve() {
    local name=$1
    shift
    spawn 0 "$name" "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:0 --discovery-timeout 0 --threads 1 "$@"
    wait_log "$name" 20 'Serving .* on http' || return 1
    URL=$(grep -oE 'http://[0-9.:]+' "$IT/$name.log" | tail -1)
}
get() { curl -s -m 60 "${@:2}" "$URL$1"; }
post() { curl -s -m 60 -H 'Content-Type: application/json' -d "$2" "${@:3}" "$URL$1"; }
status() { curl -s -m 60 -o "$IT/body" -w '%{http_code}' "${@:2}" "$URL$1"; }
# json EXPRESSION: of the object d on stdin
json() { python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }
metric() { get /metrics | awk -v m="$1" '$1 == m {print $2}'; }
metric_is() { [[ $(metric "$1") == "$2" ]]; }

check "the server starts" serve main --chat-template "$IT/chat.jinja" --sequences 4 --queue 8 || exit 1
same "/health" ok "$(get /health | json 'd["status"]')"
same "/v1/models" babyllama105-mlx-4bit-g64 "$(get /v1/models | json 'd["data"][0]["id"]')"
same "/v1/models/ID" model "$(get /v1/models/babyllama105-mlx-4bit-g64 | json 'd["object"]')"
same "/v1/models/other" 404 "$(status /v1/models/other)"

CHAT='{"messages":[{"role":"system","content":"Once"},{"role":"user","content":[{"type":"text","text":"upon a"},{"type":"text","text":" time"}]}],"max_tokens":40,"seed":11'
TEXT=$(post /v1/chat/completions "$CHAT}" | tee "$IT/body" | json 'd["choices"][0]["message"]["content"]')
check "a chat is answered" test -n "$TEXT"
same "its usage and end" "17 40 57 length" "$(json '*list(d["usage"].values())[:3], d["choices"][0]["finish_reason"]' <"$IT/body")"
LONG=$(python3 -c 'print("Once upon a time there was a little girl who lived in a house. " * 3)')
post /v1/completions "{\"prompt\":\"$LONG\",\"max_tokens\":30,\"temperature\":0}" >"$IT/body"
same "a prompt seen before is not computed again" "True" "$(post /v1/completions "{\"prompt\":\"$LONG\",\"max_tokens\":30,\"temperature\":0}" |
    json "d['choices'][0]['text'] == json.load(open('$IT/body'))['choices'][0]['text'] and d['usage']['prompt_tokens_details']['cached_tokens'] == d['usage']['prompt_tokens'] - 1")"
cat >"$IT/sse.py" <<'EOF'
import json, sys
text, roles, finish, usage, done = "", [], [], None, False
for line in sys.stdin:
    line = line.rstrip("\n")
    if not line.startswith("data: "): continue
    assert not done
    if line == "data: [DONE]": done = True; continue
    d = json.loads(line[6:])
    if "error" in d: print("error", d["error"]["message"]); sys.exit()
    if d.get("usage"): usage = d["usage"]["total_tokens"]
    for c in d["choices"]:
        if "text" in c: text += c["text"]
        else: text += c["delta"].get("content") or ""
        if c.get("delta", {}).get("role"): roles.append(c["delta"]["role"])
        if c["finish_reason"]: finish.append(c["finish_reason"])
print(json.dumps([text, roles, finish, usage, done]))
EOF
same "the same as a stream" "['$TEXT', ['assistant'], ['length'], None, True]" \
    "$(post /v1/chat/completions "$CHAT,\"stream\":true}" -N | python3 "$IT/sse.py" | json d)"
same "a stream with usage" "57 True" \
    "$(post /v1/chat/completions "$CHAT,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" -N | python3 "$IT/sse.py" | json 'd[3], d[4]' | tr -d '(),')"
same "the same over HTTP/1.0" "$TEXT" \
    "$(post /v1/chat/completions "$CHAT,\"stream\":true}" -N --http1.0 | python3 "$IT/sse.py" | json 'd[0]')"
same "with a chunked body" "$TEXT" \
    "$(post /v1/chat/completions "$CHAT}" -H 'Transfer-Encoding: chunked' | json 'd["choices"][0]["message"]["content"]')"
# the model has one character a token: any longer stop string lies across tokens
STOP=${TEXT:5:6}
same "a stop string across tokens" "${TEXT%%"$STOP"*} stop" \
    "$(post /v1/chat/completions "$CHAT,\"stop\":[\"$STOP\",\"never\"]}" | json 'd["choices"][0]["message"]["content"] + " " + d["choices"][0]["finish_reason"]')"
same "the same in a stream" "['${TEXT%%"$STOP"*}', ['stop']]" \
    "$(post /v1/chat/completions "$CHAT,\"stop\":\"$STOP\",\"stream\":true}" -N | python3 "$IT/sse.py" | json '[d[0], d[2]]')"
same "n choices" "2 2" "$(post /v1/chat/completions "$CHAT,\"n\":2}" | json 'len(d["choices"]), len(set(c["index"] for c in d["choices"]))' | tr -d '(),')"
same "logprobs" "5 3 True" "$(post /v1/chat/completions "${CHAT/40/5},\"logprobs\":true,\"top_logprobs\":3}" |
    json 'len(d["choices"][0]["logprobs"]["content"]), len(d["choices"][0]["logprobs"]["content"][0]["top_logprobs"]), all(t["logprob"] <= 0 for t in d["choices"][0]["logprobs"]["content"])' | tr -d '(),')"
same "logit_bias forces a token" "zzzz" "$(ID=$(post /tokenize '{"content":"z"}' | json 'd["tokens"][-1]'); post /v1/completions "{\"prompt\":\"a\",\"max_tokens\":4,\"temperature\":0,\"logit_bias\":{\"$ID\":100}}" | json 'd["choices"][0]["text"]')"
same "completions of two prompts" "2 text_completion" "$(post /v1/completions '{"prompt":["Once","The"],"max_tokens":3}' | json '[len(d["choices"]), d["object"]]' | tr -d "[],'")"
same "completions as run gives them" "$("$BIN/cake-master" run --model "$MODEL" --discovery-timeout 0 --threads 1 -q --raw --temperature 0 -n 30 "Once upon a time" 2>/dev/null)" \
    "$(post /v1/completions '{"prompt":"Once upon a time","max_tokens":30,"temperature":0}' | json 'd["choices"][0]["text"]')"
same "a completion keeps the blank it begins with" " upon" "$(post /v1/completions '{"prompt":"Once","max_tokens":5,"temperature":0}' | json 'd["choices"][0]["text"]')"
same "tokenize and back" "a little" "$(post /detokenize "{\"tokens\":$(post /tokenize '{"content":"a little"}' | json 'd["tokens"]')}" | json 'd["content"].strip()')"
same "apply-template" "Once upon a time" "$(post /apply-template "$CHAT}" | json 'd["prompt"]')"

# ---- errors
# refused NAME STATUS CODE PATH BODY
refused() {
    same "$1" "$2 $3" "$(status "$4" -d "$5") $(json 'd["error"]["code"]' <"$IT/body")"
}
refused "no JSON" 400 invalid_json /v1/chat/completions '{'
refused "no messages" 400 invalid_value /v1/chat/completions '{}'
refused "a number out of range" 400 invalid_value /v1/chat/completions "$CHAT,\"temperature\":9}"
refused "tools are not dropped silently" 400 unsupported_parameter /v1/chat/completions "$CHAT,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}"
refused "another model" 404 model_not_found /v1/chat/completions "$CHAT,\"model\":\"gpt-4\"}"
refused "an unknown path" 404 not_found /v1/nothing '{}'
refused "a prompt longer than the context" 400 context_length_exceeded /v1/completions \
    "{\"prompt\":\"$(printf 'a %.0s' {1..300})\"}"
same "the field is named" temperature "$(post /v1/chat/completions "$CHAT,\"temperature\":9}" | json 'd["error"]["param"]')"
same "GET where POST is meant" 405 "$(status /v1/chat/completions)"
same "a body above 8 MiB" 413 "$(head -c 9000000 /dev/zero | status /v1/completions --data-binary @-)"
same "a header above 16 KiB" 431 "$(status /health -H "X-Long: $(head -c 17000 /dev/zero | tr '\0' a)")"
same "a foreign Host" 403 "$(status /v1/models -H 'Host: evil.example')"
same "a foreign page" 403 "$(status /v1/models -H 'Origin: https://evil.example')"
same "it still serves" ok "$(get /health | json 'd["status"]')"

# ---- many at once
for i in 1 2 3 4 5 6 7 8; do
    post /v1/chat/completions "${CHAT/\"seed\":11/\"seed\":$i}}" | json 'd["choices"][0]["message"]["content"]' >"$IT/alone$i"
done
pids=()
for i in 1 2 3 4 5 6 7 8; do
    post /v1/chat/completions "${CHAT/\"seed\":11/\"seed\":$i},\"stream\":true}" -N | python3 "$IT/sse.py" | json 'd[0]' >"$IT/together$i" &
    pids+=($!)
done
wait "${pids[@]}"
differ=0
for i in 1 2 3 4 5 6 7 8; do cmp -s "$IT/alone$i" "$IT/together$i" || differ=$((differ + 1)); done
same "8 at once get the text they get alone" 0 $differ
check "their texts differ" test "$(cat "$IT"/alone? | sort -u | wc -l)" -gt 1

# ---- clients that leave: nothing stays behind
LONG='{"prompt":"Once upon a time","max_tokens":230,"ignore_eos":true,"stream":true}'
for i in 1 2 3 4 5 6; do
    curl -sN -m 60 -d "$LONG" "$URL/v1/completions" 2>/dev/null | head -c 300 >/dev/null
done
python3 - "$URL" <<'EOF'
import random, socket, struct, sys, time
host, port = sys.argv[1][7:].split(":")
body = b'{"prompt":"Once upon a time there","max_tokens":230,"ignore_eos":true,"stream":%s}'
random.seed(4)
for i in range(60):
    b = body % (b"true" if i % 2 else b"false")
    s = socket.create_connection((host, int(port)))
    r = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b)
    s.sendall(r[:random.randrange(len(r) // 2, len(r))] if i % 5 == 0 else r)
    if i % 3 == 0: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) # reset, not close
    time.sleep(random.random() * 0.01)
    s.close()
EOF
check "sequences of clients that left are freed" wait_until 5 metric_is cake_requests_running 0
check "and their jobs" wait_until 5 metric_is cake_jobs 0
check "some were cancelled" test "$(metric 'cake_requests_total{outcome="canceled"}')" -gt 0
check "and their connections" wait_until 5 metric_is cake_http_connections 1
same "the same text afterwards" "$TEXT" "$(post /v1/chat/completions "$CHAT}" | json 'd["choices"][0]["message"]["content"]')"

# ---- the bounded queue
cat >"$IT/flood.py" <<'EOF'
import socket, sys
host, port = sys.argv[1][7:].split(":")
b = b'{"prompt":"Once upon a time there","max_tokens":200,"ignore_eos":true}'
r = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b)
conns = [socket.create_connection((host, int(port))) for _ in range(60)]
for c in conns: c.sendall(r)
got = []
for c in conns:
    t = b""
    while True:
        x = c.recv(65536)
        if not x: break
        t += x
    got.append(t)
ok = sum(t.startswith(b"HTTP/1.1 200") for t in got)
busy = sum(t.startswith(b"HTTP/1.1 429") and b"Retry-After: " in t for t in got)
print(ok + busy, ok >= 12)
EOF
same "each of 60 at once is answered or told to come again" "60 True" "$(python3 "$IT/flood.py" "$URL")"
for i in 1 2 3 4 5 6; do post /v1/completions "$LONG" -N >"$IT/last$i" & done
wait_until 5 fails metric_is cake_requests_running 0
check "the server stops on request" stop main TERM 10
wait
same "and says so to those it was answering" 6 "$(grep -lE '"code":"unavailable"|\[DONE\]' "$IT"/last? | wc -l)"
check "cleanly" fails logged main 'cake-master:|ERROR|WARNING: Thread'

# ---- turns: one machine asks for much, another waits for little of it
check "a server of one answer at a time" serve turns --sequences 1 --queue 99
MANY='{"prompt":["Once","One","There","She","He","The","A","In","On","At","It","We","You","They","Tom","Tim"],"max_tokens":230,"ignore_eos":true}'
{
    for i in 1 2 3 4 5 6; do post /v1/completions "$MANY" >"$IT/many$i" & done # more than a curl takes to start
    wait
    echo "${EPOCHREALTIME/[.,]/}" >"$IT/many.end"
} &
many=$!
check "much waits" wait_until 10 fails metric_is cake_requests_waiting 0
post /v1/completions '{"prompt":"Once","max_tokens":3,"ignore_eos":true}' --interface 127.0.0.2 >"$IT/little"
little=${EPOCHREALTIME/[.,]/}
wait $many
same "little of the other machine's" 3 "$(json 'd["usage"]["completion_tokens"]' <"$IT/little")"
same "much of the one's" "16 16 16 16 16 16" "$(for i in 1 2 3 4 5 6; do json 'len(d["choices"])' <"$IT/many$i"; done | xargs)"
check "little is not behind all of it" test "$little" -lt "$(cat "$IT/many.end")"
check "it stops" stop turns

# ---- keys, and no template
export CAKE_API_KEY=test-key-0123456789
check "a server with a key" serve keyed --model-name tiny
unset CAKE_API_KEY
same "without the key" 401 "$(status /v1/models)"
same "with a wrong key" 401 "$(status /v1/models -H 'Authorization: Bearer test-key-012345678x')"
same "with the key" 200 "$(status /v1/models -H 'Authorization: Bearer test-key-0123456789')"
same "/health needs none" 200 "$(status /health)"
same "a chat without a chat template" "400 no_chat_template" \
    "$(status /v1/chat/completions -H 'Authorization: Bearer test-key-0123456789' -d '{"model":"tiny","messages":[{"role":"user","content":"x"}]}') $(json 'd["error"]["code"]' <"$IT/body")"
stop keyed
"$BIN/cake-master" serve --model "$MODEL" --api 0.0.0.0:0 --discovery-timeout 0 >"$IT/out" 2>"$IT/err"
same "an open address needs a key" 78 $?

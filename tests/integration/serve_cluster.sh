#!/bin/bash
# cake-master serve over workers: a worker is lost and comes back, and the answers under way go on as if nothing had been;
# /health says so meanwhile; when it stays away they end with an error.
. "${0%/*}/lib.sh"
it_need curl python3
it_sandbox "$@"
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
MODEL=$REPO/tests/models/babyllama105-mlx-4bit-g64
for i in 2 3; do worker $i "w$i" --threads 1; done
for i in 2 3; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done
printf 'w2:\n  host: "%s:10128"\n  layers: ["model.layers.0-1"]\nw3:\n  host: "%s:10128"\n  layers: ["model.layers.2-4"]\n' \
    "$(address 2)" "$(address 3)" >"$IT/topology.yml"
spawn 1 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:8080 --topology "$IT/topology.yml" \
    --cluster-key-file "$IT_KEY" --threads 1 --sequences 2 --recover-timeout 6s
ask() { on 1 curl -s -m 60 "$@"; }
U=http://127.0.0.1:8080
is_health() { [[ $(ask -o /dev/null -w '%{http_code}' $U/health) == "$1" ]]; }
text() { ask -d '{"prompt":"Once upon a time","max_tokens":40,"temperature":0}' $U/v1/completions |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["choices"][0]["text"])'; }
check "it serves" wait_log main 30 'Serving .* on http' || exit 1
same "/health" 200 "$(ask -o /dev/null -w '%{http_code}' $U/health)"
TEXT=$(text)
same "the text of one machine" "$(on 1 "$BIN/cake-master" run --model "$MODEL" --discovery-timeout 0 -q --raw --temperature 0 -n 40 "Once upon a time" 2>/dev/null)" "$TEXT"
# long answers, one after the other; a worker dies under them and comes back
LONG='{"prompt":"Once upon a time","max_tokens":230,"ignore_eos":true,"temperature":0.9,"seed":5,"stream":true}'
whole() { python3 "$IT/whole.py"; }
cat >"$IT/whole.py" <<'EOF'
import json, sys
text, end = "", "cut"
for line in sys.stdin:
    line = line.strip()
    if line == "data: [DONE]": end = "done"; continue
    if not line.startswith("data: ") and not line.startswith("{"): continue
    d = json.loads(line[6:] if line.startswith("data: ") else line)
    if "error" in d: end = "error " + str(d["error"]["code"]); continue
    text += "".join(c["text"] for c in d["choices"])
print(end, json.dumps(text))
EOF
WANT=$(ask -N -d "$LONG" $U/v1/completions | whole)
check "a long answer" grep -q '^done "..' <<<"$WANT"
# under_way NAME: three keep asking, one answer a line in $IT/NAME.*, until $IT/NAME.enough is there
under_way() {
    askers=()
    for k in 1 2 3; do
        while [[ ! -e $IT/$1.enough ]]; do ask -N -d "$LONG" $U/v1/completions | whole >>"$IT/$1.$k"; done &
        askers+=($!)
    done
    sleep 0.5
}
metric() { ask $U/metrics | awk -v m="$1" '$1 == m {print $2}'; }
# A worker that does not answer any more is killed when a request surely waits for it.
running() { [[ $(metric cake_requests_running) -ge 1 ]]; }
kill_under_way() {
    send w3 STOP
    wait_until 10 running || return 1
    stop w3 KILL 5
}
under_way back
check "a worker is killed under an answer" kill_under_way
check "/health is false soon after a worker is lost" wait_until 15 is_health 503
: >"$IT/back.enough"
worker 3 w3 --threads 1
check "it comes back by itself" wait_until 60 is_health 200
wait "${askers[@]}"
# who asks while it is down is told so at once
check "the answers under way went on: all are whole and the same" \
    fails grep -qvxF -e "$WANT" -e 'error unavailable ""' -- "$IT"/back.[123]
check "one of them was computed again" test "$(metric cake_replays_total)" -ge 1
same "the same text again" "$TEXT" "$(text)"
# the same, and it does not come back
under_way gone
check "again" kill_under_way
: >"$IT/gone.enough"
wait "${askers[@]}"
check "answers end with an error when nobody can go on with them" grep -q '^error unavailable "[^"]' "$IT"/gone.[123]
check "or were whole" fails grep -qvE '^error unavailable|^done ' "$IT"/gone.[123]
worker 3 w3 --threads 1
check "it serves again when the worker is back" wait_until 60 is_health 200
same "the same text once more" "$TEXT" "$(text)"
check "it stops on request" stop main TERM 10

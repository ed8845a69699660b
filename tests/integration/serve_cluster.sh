#!/bin/bash
# cake-master serve over workers: a worker that is lost ends the requests with an error, /health says so, and the server goes
# on by itself when the worker is back.
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
    --cluster-key-file "$IT_KEY" --threads 1 --sequences 2
ask() { on 1 curl -s -m 60 "$@"; }
U=http://127.0.0.1:8080
is_health() { [[ $(ask -o /dev/null -w '%{http_code}' $U/health) == "$1" ]]; }
text() { ask -d '{"prompt":"Once upon a time","max_tokens":40,"temperature":0}' $U/v1/completions |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["choices"][0]["text"])'; }
check "it serves" wait_log main 30 'Serving .* on http' || exit 1
same "/health" 200 "$(ask -o /dev/null -w '%{http_code}' $U/health)"
TEXT=$(text)
same "the text of one machine" "$(on 1 "$BIN/cake-master" run --model "$MODEL" --discovery-timeout 0 -q --raw --temperature 0 -n 40 "Once upon a time" 2>/dev/null)" "$TEXT"
# one request after the other; a worker dies under them
for k in $(seq 200); do
    echo "$(ask -N -d '{"prompt":"Once upon a time","max_tokens":230,"ignore_eos":true,"stream":true}' $U/v1/completions | tail -n 2 | tr -d '\n')"
    [[ -e $IT/enough ]] && break
done >"$IT/answers" &
asker=$!
sleep 0.5
stop w3 KILL 5
check "/health is false soon after a worker is lost" wait_until 15 is_health 503
: >"$IT/enough"
wait $asker
check "every answer ended, or ended with an error" fails grep -qvE '^data: \[DONE\]$|^\{"error":|^data: \{"error":' "$IT/answers"
check "one with an error" grep -q '"error":' "$IT/answers"
worker 3 w3 --threads 1
check "it comes back by itself" wait_until 60 is_health 200
same "the same text again" "$TEXT" "$(text)"
check "it stops on request" stop main TERM 10

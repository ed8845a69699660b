#!/bin/bash
# cake-master serve over a worker on this machine: /health is 503 soon after the worker is gone, and /metrics counts per worker.
. "${0%/*}/lib.sh"
it_need curl
it_sandbox "$@"
check "two hosts" hosts 2 || exit 1
check "a cluster key" key_new || exit 1
worker 2 w2 --threads 1
check "the worker listens" wait_until 20 port_open 1 "$(address 2)" 10128 || exit 1
printf 'w2:\n  host: "%s:10128"\n  layers: ["model.layers.0-4"]\n' "$(address 2)" >"$IT/topology.yml"
spawn 1 main "$BIN/cake-master" serve --model "$REPO/tests/models/babyllama105-mlx-4bit-g64" --api 127.0.0.1:8080 --topology "$IT/topology.yml" \
    --cluster-key-file "$IT_KEY" --threads 1
U=http://127.0.0.1:8080
ask() { on 1 curl -s -m 20 "$@"; }
is_health() { [[ $(ask -o /dev/null -w '%{http_code}' $U/health) == "$1" ]]; }
check "it serves" wait_log main 60 'Serving .* on http' || exit 1
ask -o /dev/null -d '{"prompt":"Once upon a time","max_tokens":40}' $U/v1/completions
of_worker() { ask $U/metrics | awk -v m="cake_worker_$1{worker=\"w2\"" 'index($1, m) == 1 {print $2}'; }
soon() { [[ $(of_worker rows_total) -gt 40 ]]; }
check "rows of the worker are counted" wait_until 5 soon
same "its layers" 5 "$(of_worker layers)"
same "it is up" 1 "$(of_worker up)"
check "its time" test "$(of_worker compute_seconds_total | tr -d .e- | tr -d 0)" != ""
check "what was sent to it" test "$(of_worker sent_bytes_total)" -gt 10000
unplug 2
start=$(now_ms)
check "/health is false when a cable is pulled" wait_until 5 is_health 503
echo "# $(($(now_ms) - start)) ms after the cable was pulled"
replug 2
check "and true when it is back" wait_until 30 is_health 200
start=$(now_ms)
stop w2 KILL 5
# The aim is 1 s; only a multiple fails, because a busy machine is no defect.
check "/health is false" wait_until 5 is_health 503
echo "# $(($(now_ms) - start)) ms after the worker was killed"
down() { [[ $(of_worker up) == 0 ]]; }
check "and it is down in /metrics" wait_until 5 down
worker 2 w2 --threads 1
check "it comes back by itself" wait_until 60 is_health 200
again() { [[ $(of_worker up) == 1 ]]; }
check "and is up again" wait_until 5 again
check "it stops on request" stop main TERM 10
exit $IT_FAILED

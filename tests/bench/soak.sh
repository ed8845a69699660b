#!/bin/bash
# tests/bench/soak.sh [REQUESTS]: requests with random disconnects against a server over one worker, 10,000 by default; what is
# there before and after: sequences, batches, jobs, descriptors, threads, resident memory of both processes. JSON on stdout;
# fails when something is left behind. tests/integration/soak.sh is a short one.
set -u
cd "$(dirname "$0")/../.."
N=${1:-10000}
BIN=${BIN:-build}
tmp=$(mktemp -d)
pids=()
finish() {
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT TERM
export HOME=$tmp XDG_CONFIG_HOME=$tmp/config XDG_STATE_HOME=$tmp/state XDG_CACHE_HOME=$tmp/cache
key=(--cluster-key-file "$tmp/key")
"$BIN/cake-master" cluster create "${key[@]}" >/dev/null 2>&1
"$BIN/cake-worker" --name one --address 127.0.0.1:0 "${key[@]}" --threads 1 --cache "$tmp/c" 2>"$tmp/one.log" &
pids+=($!)
for ((i = 0; i < 400; i++)); do grep -qs 'listens on' "$tmp/one.log" && break || sleep 0.1; done
port=$(sed -n "s/.*listens on [^ ]*:\([0-9]*\),.*/\1/p" "$tmp/one.log")
printf 'one:\n  host: "127.0.0.1:%s"\n  layers: ["model.layers.0-1"]\n' "$port" >"$tmp/topology.yml"
"$BIN/cake-master" serve --model tests/models/babyllama105-mlx-4bit-g64 --api 127.0.0.1:0 --topology "$tmp/topology.yml" "${key[@]}" \
    --threads 1 --sequences 4 --queue 40 2>"$tmp/main.log" &
pids+=($!)
for ((i = 0; i < 600; i++)); do grep -qs 'Serving .* on http' "$tmp/main.log" && break || sleep 0.1; done
URL=$(grep -oE 'http://[0-9.:]+' "$tmp/main.log" | tail -1)
[[ -n $URL ]] || { tail -n 5 "$tmp/main.log" "$tmp/one.log" >&2; exit 1; }
held() { # held PID: descriptors, threads, KiB
    echo "$(ls "/proc/$1/fd" | wc -l) $(ls "/proc/$1/task" | wc -l) $(awk '/^VmRSS/ {print $2}' "/proc/$1/status")"
}
python3 tests/bench/soak.py "$URL" $((N / 5)) 7 200 >/dev/null # so that all pools and tables have their size
before=("$(held "${pids[0]}")" "$(held "${pids[1]}")")
python3 tests/bench/soak.py "$URL" "$N" 1 200 | tee "$tmp/out"
bad=0
grep -q '"clean": true' "$tmp/out" && grep -q '"failed": 0' "$tmp/out" || bad=1
for ((i = 0; i < 100; i++)); do # connections of the last clients
    after=("$(held "${pids[0]}")" "$(held "${pids[1]}")")
    read -r f t k <<<"${after[1]}" && read -r f0 t0 k0 <<<"${before[1]}"
    ((f <= f0)) && break || sleep 0.1
done
i=0
for who in worker master; do
    read -r f0 t0 k0 <<<"${before[$i]}"
    read -r f t k <<<"${after[$i]}"
    printf '{"bench":"soak","who":"%s","descriptors":[%s,%s],"threads":[%s,%s],"rss_kib":[%s,%s]}\n' $who "$f0" "$f" "$t0" "$t" "$k0" "$k"
    # 16 KiB a request would be a leak that matters; allocators breathe by a few MiB
    ((f <= f0 && t <= t0)) || bad=1
    [[ -n ${SOAK_NO_RSS:-} ]] || ((k - k0 <= 8192 + N / 10)) || bad=1
    i=$((i + 1))
done
exit $bad

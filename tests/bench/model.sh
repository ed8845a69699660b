#!/bin/bash
# make bench-model: a random-weight model of a published shape (SHAPE, default qwen2.5-0.5b; make_model --list names them) in
# MLX 4-bit group 64, on one node and over two loopback workers of one core each; also bundle transfer, memory and binary sizes.
# JSON lines on stdout, what is happening on stderr. Takes a few minutes; nothing else should run meanwhile.
set -eu
cd "$(dirname "$0")/../.."
SHAPE=${SHAPE:-qwen2.5-0.5b}
CONTEXT=${CONTEXT:-1024}
dir=build/bench/$SHAPE
tmp=$(mktemp -d)
pids=()
finish() {
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT TERM
export HOME=$tmp XDG_CONFIG_HOME=$tmp/config XDG_STATE_HOME=$tmp/state XDG_CACHE_HOME=$tmp/cache

if [[ ! -s $dir/model.safetensors ]]; then
    tokenizer=tests/models/stories260K-hf
    case $SHAPE in
    qwen*) [[ -d ../shared/data/tokenizers/qwen2.5 ]] && tokenizer=../shared/data/tokenizers/qwen2.5 ;;
    esac
    echo "writing $dir" >&2
    build/release/tests/tools/make_model "$SHAPE" "$dir" "$tokenizer" >&2
fi
line() { printf '{"bench":"model","shape":"%s","setup":"%s","what":"%s","value":%s,"unit":"%s"}\n' "$SHAPE" "$1" "$2" "$3" "$4"; }
# bench SETUP ARG...: cake-master bench with the setup written into its lines; its stderr in $tmp/err
bench() {
    local setup=$1
    shift
    build/cake-master bench --model "$dir" --context "$CONTEXT" --cluster-key-file "$tmp/key" "$@" 2>"$tmp/err" |
        sed -u "s/\"bench\":\"model\",/&\"shape\":\"$SHAPE\",\"setup\":\"$setup\",/" || {
        cat "$tmp/err" >&2
        return 1
    }
}
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '{"bench":"machine","cpu":"%s","cores":%s,"memory_gib":%s}\n' "$cpu" "$(nproc)" "$(awk '/^MemTotal/ {printf "%.1f", $2/1048576}' /proc/meminfo)"
build/cake-master cluster create --cluster-key-file "$tmp/key" >"$tmp/created" 2>&1

bench "1 node, $(nproc) threads" --discovery-timeout 0
bench "1 node, 1 thread" --discovery-timeout 0 --threads 1

layers=$(sed -n 's/.*"num_hidden_layers": \([0-9]*\).*/\1/p' "$dir/config.json")
half=$((layers / 2))
core=0
for w in one two; do
    taskset -c $((core % $(nproc))) build/cake-worker --name $w --address 127.0.0.1:0 --cluster-key-file "$tmp/key" --threads 1 \
        --cache "$tmp/cache-$w" 2>"$tmp/$w.log" &
    pids+=($!)
    core=$((core + 1))
done
for w in one two; do
    for ((i = 0; i < 200; i++)); do grep -qs 'listens on' "$tmp/$w.log" && break || sleep 0.1; done
    port=$(sed -n "s/.*listens on [^ ]*:\([0-9]*\),.*/\1/p" "$tmp/$w.log")
    printf '%s:\n  host: "127.0.0.1:%s"\n' $w "$port"
    if [[ $w == one ]]; then
        printf '  layers: ["model.embed_tokens", "model.layers.0-%d"]\n' $((half - 1))
    else
        printf '  layers: ["model.layers.%d-%d", "lm_head"]\n' $half $((layers - 1))
    fi
done >"$tmp/topology.yml"
bench "2 loopback workers, 1 core each" --topology "$tmp/topology.yml" --threads 1

# "send to one: 120 MiB in 0.31 s, 387 MiB/s"
sed -n 's/^send to \([^:]*\): .* in .*, \([0-9.]*\) \([KMG]\)iB\/s$/\1 \2 \3/p' "$tmp/err" | while read -r w rate unit; do
    case $unit in K) rate=$(awk "BEGIN {print $rate / 1024}") ;; G) rate=$(awk "BEGIN {print $rate * 1024}") ;; esac
    line "2 loopback workers, 1 core each" "bundle to $w" "$rate" "MiB/s"
done
# Memory beside weights and KV cache: a plan with hardly any context, one token.
build/cake-master run --model "$dir" --context 64 --cluster-key-file "$tmp/key" --topology "$tmp/topology.yml" --threads 1 --raw -n 1 \
    --prompt a >"$tmp/out" 2>&1
i=0
for w in one two; do
    rss=$(awk '/^VmRSS/ {print $2 / 1024}' "/proc/${pids[$i]}/status")
    loaded=$(grep 'event=loaded' "$tmp/$w.log" | tail -n 1)
    weights=$(sed -n 's/.*weights_mib=\([0-9]*\).*/\1/p' <<<"$loaded")
    kv=$(sed -n 's/.*kv_mib=\([0-9]*\).*/\1/p' <<<"$loaded")
    line "worker $w" "resident memory beside weights ($weights MiB) and KV cache ($kv MiB)" \
        "$(awk "BEGIN {printf \"%.1f\", $rss - $weights - $kv}")" "MiB"
    i=$((i + 1))
done
for p in cake-worker cake-master; do
    line "$p" "binary" "$(stat -c %s build/$p)" "bytes"
    strip -o "$tmp/stripped" build/$p
    line "$p" "binary, stripped" "$(stat -c %s "$tmp/stripped")" "bytes"
done

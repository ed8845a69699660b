#!/bin/bash
# make bench-serve: what serving makes of stages of one core each; every figure beside its own baseline of the same run.
#
# Two stages: a worker on core 0 with the embedding and layers 0-15 of a random-weight Qwen2.5-0.5B in MLX 4-bit, the master
# with the rest on core 1 (layers and head are dealt out so that both take about as long, for prompts apart). A delay relay
# between them stands for a slow network. JSON lines on stdout with ratio and bar, what is happening on stderr. Some five minutes; nothing else
# should run meanwhile. ONLY="decode hops prompt single long look" leaves the rest out.
set -eu
cd "$(dirname "$0")/../.."
ONLY=${ONLY:-decode hops prompt single long look link}
T=build/release/tests/tools
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
model() { # model SHAPE: its folder, made when it is not there
    local dir=build/bench/$1-serve
    if [[ ! -s $dir/model.safetensors ]]; then
        echo "writing $dir" >&2
        $T/make_model "$1" "$dir" tests/models/stories260K-hf >&2
    fi
    echo "$dir"
}
wanted() { [[ " $ONLY " == *" $1 "* ]]; }
# figure NAME VALUE BASELINE RATIO BAR UNIT; a ratio is never below its bar when all is well
figure() { printf '{"bench":"serve","what":"%s","value":%s,"baseline":%s,"unit":"%s","ratio":%s,"bar":%s}\n' "$1" "$2" "$3" "$6" "$4" "$5"; }
ratio() { awk "BEGIN {printf(\"%.3f\", ($2 > 0) ? $1 / $2 : 0)}"; }

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf '{"bench":"machine","cpu":"%s","cores":%s,"load":"%s"}\n' "$cpu" "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
build/cake-master cluster create --cluster-key-file "$tmp/key" >/dev/null 2>&1
other=$((1 % $(nproc)))
taskset -c 0 build/cake-worker --name one --address 127.0.0.1:0 --cluster-key-file "$tmp/key" --threads 1 --cache "$tmp/cache-one" 2>"$tmp/one.log" &
pids+=($!)
for ((i = 0; i < 200; i++)); do grep -qs 'listens on' "$tmp/one.log" && break || sleep 0.1; done
port=$(sed -n "s/.*listens on [^ ]*:\([0-9]*\),.*/\1/p" "$tmp/one.log")
# relay MS: a relay to the worker; sets RELAY
relay() {
    $T/delay "127.0.0.1:$port" "$1" >"$tmp/relay.$1" &
    pids+=($!)
    for ((i = 0; i < 100; i++)); do [[ -s $tmp/relay.$1 ]] && break || sleep 0.05; done
    RELAY=$(cat "$tmp/relay.$1")
}
# topology PORT LAST: the worker there has the embedding and layers 0-LAST
topology() { printf 'one:\n  host: "127.0.0.1:%s"\n  layers: ["model.embed_tokens", "model.layers.0-%s"]\n' "$1" "$2" >"$tmp/topology.$1.yml"; }
# two PORT CONTEXT WHAT...: over two stages; results in the array R
declare -A R
# The best of several: other work on the machine, and on its host, only ever slows one down.
best_results() { while read -r name value; do
    echo "  $1$name $value" >&2
    R[$1$name]=$(awk "BEGIN {print (${R[$1$name]:-0} > $value) ? ${R[$1$name]:-0} : $value}")
done; }
read_results() { while read -r name value; do R[$1$name]=$value; echo "  $1$name $value" >&2; done; }
two() { taskset -c "$other" $T/serve_figures "$M" "$tmp/topology.$1.yml" "$tmp/key" 1 "$2" "${@:3}"; }
one() { $T/serve_figures "$M" - - "$1" "$2" "${@:3}"; }

M=$(model qwen2.5-0.5b)
topology "$port" 15
# Two stages at work read the weights together: what the memory gives two threads, and one, bounds how much they gain.
reads() { build/release/tests/bench/bench_matmul -f f32 -n 1 -t "$1" -s 0.2 -i "$ISA" | sed 's/.*"limit":\([0-9.]*\),.*/\1/'; }
if wanted decode || wanted hops; then
    ISA=$(build/release/tests/bench/bench_matmul -f f32 -n 1 -t 1 -s 0.05 | sed -n '1s/.*"isa":"\([a-z0-9]*\)".*/\1/p')
    relay 5
    topology "$RELAY" 15
    : >"$tmp/reads"
    for round in 1 2 3 4; do
        echo "$(reads 1) $(reads 2)" >>"$tmp/reads"
        best_results two. < <(two "$port" 512 decode:1 decode:2 decode:8)
        if wanted hops; then best_results far. < <(two "$RELAY" 512 decode:8); fi
    done
    awk '{for (t = 1; t <= 2; t++) {if (!low[t] || $t < low[t]) low[t] = $t; if ($t > high[t]) high[t] = $t}}
        END {printf("{\"bench\":\"machine\",\"what\":\"memory read meanwhile\",\"one_thread\":[%s,%s],\"two_threads\":[%s,%s],\"unit\":\"GB/s\"}\n",
            low[1], high[1], low[2], high[2])}' "$tmp/reads"
    a=${R[two.decode:1]}
    figure "2 stages x 1 core, 2 streams against 1" "${R[two.decode:2]}" "$a" "$(ratio "${R[two.decode:2]}" "$a")" 1.9 tokens/s
    figure "2 stages x 1 core, 8 streams against 1" "${R[two.decode:8]}" "$a" "$(ratio "${R[two.decode:8]}" "$a")" 4 tokens/s
fi
if wanted hops; then
    a=${R[two.decode:8]}
    figure "8 streams with 5 ms a hop against none" "${R[far.decode:8]}" "$a" "$(ratio "${R[far.decode:8]}" "$a")" 0.95 tokens/s
fi
if wanted prompt || wanted long; then topology "$port" 11; fi # a prompt asks the head for one row: halves of the layers
if wanted prompt; then
    read_results two. < <(two "$port" 2112 prefill:2048)
    read_results one. < <(one 2 2112 prefill:2048)
    a=${R[one.prefill:2048]}
    figure "prompt of 2048 over 2 stages x 1 core against one process with 2 threads" "${R[two.prefill:2048]}" "$a" \
        "$(ratio "${R[two.prefill:2048]}" "$a")" 0.95 tokens/s
fi
if wanted long; then
    read_results two. < <(two "$port" 8704 long:8192)
    # the bar is an upper one, 1.5: the ratio is turned round
    for part in first last; do
        a=${R[two.${part}_base_ms]} b=${R[two.${part}_ms]}
        figure "p95 between tokens of 4 others, alone against beside the $part 1024 tokens of a prompt of 8192" "$b" "$a" "$(ratio "$a" "$b")" 0.667 ms
    done
    figure "second turn of a chat of 8192 tokens: not computed again" "${R[two.turn_cached]}" "${R[two.turn_prompt]}" \
        "$(ratio "${R[two.turn_cached]}" "${R[two.turn_prompt]}")" 0.99 tokens
fi
topology "$port" 15
if wanted look; then
    relay 10
    topology "$RELAY" 15
    read_results far. < <(two "$RELAY" 512 copy:off copy:on novel:off novel:on)
    figure "copied text with guessing against without, 10 ms a hop" "${R[far.copy:on]}" "${R[far.copy:off]}" \
        "$(ratio "${R[far.copy:on]}" "${R[far.copy:off]}")" 4 tokens/s
    figure "novel text with guessing against without, 10 ms a hop" "${R[far.novel:on]}" "${R[far.novel:off]}" \
        "$(ratio "${R[far.novel:on]}" "${R[far.novel:off]}")" 0.97 tokens/s
    read_results two. < <(two "$port" 512 novel:off novel:on)
    figure "novel text with guessing against without, no delay" "${R[two.novel:on]}" "${R[two.novel:off]}" \
        "$(ratio "${R[two.novel:on]}" "${R[two.novel:off]}")" 0.97 tokens/s
fi
if wanted single; then
    M=$(model llama-1b)
    topology "$port" 9
    read_results two1b. < <(two "$port" 256 decode:1)
    read_results one1b. < <(taskset -c "$other" $T/serve_figures "$M" - - 1 256 decode:1)
    a=${R[one1b.decode:1]}
    figure "1B, one stream over 2 loopback stages against one process, 1 thread" "${R[two1b.decode:1]}" "$a" \
        "$(ratio "${R[two1b.decode:1]}" "$a")" 0.99 tokens/s
fi
if wanted link; then
    line=$(build/release/tests/bench/bench_link | grep '"hop","transport":"tcp+curve","rows":1,"bytes":8192')
    field() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" <<<"$line"; }
    # bars are upper ones, 60 and 250 us: ratios are turned round
    figure "software time of an encrypted hop of 8 KiB, median" "$(field value)" 60 "$(ratio 60 "$(field value)")" 1 us
    figure "the same, p90" "$(field p90)" 250 "$(ratio 250 "$(field p90)")" 1 us
fi

#!/bin/bash
# Same bits however the model is split: real processes over CURVE links, the logits of every generated token compared byte for
# byte: alone; over 2 workers at every split point of an 8-layer model; over 1, 3 and 4 workers; both compute modes.
. "${0%/*}/lib.sh"
it_sandbox "$@"
check "five hosts" hosts 5 || exit 1
check "a cluster key" key_new || exit 1
for i in 2 3 4 5; do worker $i "w$i" --threads 1; done
for i in 2 3 4 5; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done

# topology RANGE...: worker 2 takes the first range of layers, worker 3 the second, ...
topology() {
    local i=2 r
    : >"$IT/topology.yml"
    for r in "$@"; do
        printf 'w%s:\n  host: "%s:10128"\n  layers: ["model.layers.%s"]\n' $i "$(address $i)" "$r" >>"$IT/topology.yml"
        i=$((i + 1))
    done
}
# generate NAME ARG...: logits into $IT/NAME.f32, text into $IT/NAME.txt
generate() {
    local name=$1
    shift
    master 1 --model "$M" --cluster-key-file "$IT_KEY" --raw --temperature 0 -n 6 --threads 1 --context 128 \
        --dump-logits "$IT/$name.f32" --prompt "Once upon a time there was a" "$@" || return 1
    cp "$IT/out" "$IT/$name.txt"
}
layers() { sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' "$1/config.json"; }
# equals NAME WANT: the same logits, at least one row of them, and the same text
equals() {
    test -s "$IT/$1.f32" && cmp "$IT/$1.f32" "$IT/$2.f32" && cmp "$IT/$1.txt" "$IT/$2.txt"
}

for name in qwen3-8l-4bit-g32 llama-8l-bf16 gemma3-8l-4bit-g32; do
    M=$(model $name)
    check "$name alone" generate alone --discovery-timeout 0 || continue
    columns=$(python3 -c "import json;print(json.load(open('$M/config.json'))['vocab_size'])" 2>/dev/null || echo 105)
    same "$name: six rows of logits" $((6 * columns * 4)) "$(stat -c %s "$IT/alone.f32")"
    for cut in 1 2 3 4 5 6 7; do
        topology "0-$((cut - 1))" "$cut-7"
        check "$name over 2 workers, split before layer $cut" generate split --topology "$IT/topology.yml" &&
            check "$name split before layer $cut: same bits" equals split alone
    done
    for parts in "0-7" "2-5" "0-4" "3-7" "0-2 3-5 6-7" "0-1 2-3 4-5 6-7"; do
        topology $parts
        check "$name over $(echo $parts | wc -w) worker(s), layers $parts" generate split --topology "$IT/topology.yml" &&
            check "$name layers $parts: same bits" equals split alone
    done
done
# Blocks of every codec, two layers: each on a worker of its own, and both on one.
for name in kquant-super-blocks kquant-small-blocks; do
    M=$(model $name)
    check "$name alone" generate alone --discovery-timeout 0 || continue
    for parts in "0-0 1-1" "0-1"; do
        topology $parts
        check "$name over $(echo $parts | wc -w) worker(s)" generate split --topology "$IT/topology.yml" &&
            check "$name over $(echo $parts | wc -w) worker(s): same bits" equals split alone
    done
done
# A GGUF file: its blocks and its tokenizer, q and k rows put back in order on their way.
M=$REPO/tests/models/stories260K-q8_0.gguf
topology 0-1 2-4
check "GGUF alone" generate alone --discovery-timeout 0
check "GGUF over 2 workers" generate split --topology "$IT/topology.yml" && check "GGUF: same bits" equals split alone
# A bigger one, where the collection is there.
if M=$(model babyllama105-pad256-kquant-q4_k_m 2>/dev/null) && [ -d "$M" ]; then
    topology 0-1 2-4
    check "q4_k_m alone" generate alone --discovery-timeout 0
    check "q4_k_m over 2 workers" generate split --topology "$IT/topology.yml" && check "q4_k_m: same bits" equals split alone
else
    skip "q4_k_m over 2 workers: ../shared/data/models/babyllama105-pad256-kquant-q4_k_m is missing"
fi
# Experts travel with their layer.
for name in qwen3moe-8l-4bit-g32 babyllama105-qwen2moe-mlx-4bit-gate8; do
    M=$(model $name)
    check "$name alone" generate alone --discovery-timeout 0 || continue
    for parts in "0-2 3-$(($(layers "$M") - 1))" "0-0 1-3 4-$(($(layers "$M") - 1))"; do
        topology $parts
        check "$name layers $parts" generate split --topology "$IT/topology.yml" &&
            check "$name layers $parts: same bits" equals split alone
    done
done
M=$(model qwen3-8l-4bit-g32)
topology 0-3 4-7
check "f32 mode alone" generate alone --discovery-timeout 0 --compute f32
check "f32 mode over 2 workers" generate split --topology "$IT/topology.yml" --compute f32 &&
    check "f32 mode: same bits" equals split alone
check "8-bit KV cache alone" generate alone --discovery-timeout 0 --kv q8
check "8-bit KV cache over 2 workers" generate split --topology "$IT/topology.yml" --kv q8 &&
    check "8-bit KV cache: same bits" equals split alone
for i in 2 3 4 5; do check "worker $i is still there and stops on request" stop "w$i"; done

#!/bin/bash
# cake-master run when workers are lost: killed, stopped (it hangs) or unplugged in the middle of a text, which goes on over
# those that are left, or when the worker is back, with the same logits as if nothing had been.
. "${0%/*}/lib.sh"
it_sandbox "$@"
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
M=$IT/model
check "a model that takes its time" "${B:-$REPO/build/release}/tests/tools/make_model" 51mb "$M" "$(model stories260K-hf)" || exit 1
for i in 2 3; do worker $i "w$i" --threads 1; done
for i in 2 3; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done
layers=$(python3 -c "import json;print(json.load(open('$M/config.json'))['num_hidden_layers'])")
printf 'w2:\n  host: "%s:10128"\n  layers: ["model.layers.0-%s"]\nw3:\n  host: "%s:10128"\n  layers: ["model.layers.%s-%s"]\n' \
    "$(address 2)" $((layers / 2 - 1)) "$(address 3)" $((layers / 2)) $((layers - 1)) >"$IT/t.yml"
N=$((IT_SLOW > 1 ? 100 : 300)) # a sanitizer takes its time
# run NAME ARG...: logits into $IT/NAME.f32, text into $IT/NAME.txt
run() {
    local name=$1
    shift
    MASTER_TIMEOUT=90 master 1 run --model "$M" --cluster-key-file "$IT_KEY" --threads 1 --raw --context 512 -n $N --seed 3 \
        --temperature 1 --dump-logits "$IT/$name.f32" "$@" "Once upon a time" || return 1
    cp "$IT/out" "$IT/$name.txt"
}
equals() { cmp "$IT/$1.f32" "$IT/alone.f32" && cmp "$IT/$1.txt" "$IT/alone.txt"; }
# halfway COMMAND...: once some of the logits are written
some() { [[ $(stat -c %s "$IT/$1.f32" 2>/dev/null || echo 0) -gt 65536 ]]; }
halfway() { # halfway NAME COMMAND...
    rm -f "$IT/$1.f32"
    (wait_until 60 some "$1" && "${@:2}") &
}
check "alone" run alone --discovery-timeout 0 || exit 1

# Found by discovery: the rest is enough.
halfway killed send w3 KILL
check "a worker is killed, the other two machines go on" run killed --min-workers 2 --discovery-timeout 10s
check "it says so" grep -q "planning again" "$IT/err"
check "the same logits and text" equals killed
worker 3 w3 --threads 1
check "worker 3 is back" wait_until 20 port_open 1 "$(address 3)" 10128

# Pinned by a topology: it takes the worker itself.
back() { stop w3 KILL 5; sleep 1; worker 3 w3 --threads 1; sleep 60; }
halfway returned back
returner=$!
check "a worker is killed and started again" run returned --topology "$IT/t.yml"
check "it says so" grep -q "planning again" "$IT/err"
check "the same logits and text" equals returned
kill $returner 2>/dev/null

# A worker that hangs is as good as lost.
halfway hangs send w2 STOP
check "a worker hangs, the other machines go on" run hangs --min-workers 2 --discovery-timeout 10s
check "the same logits and text" equals hangs
send w2 CONT

halfway unplugged unplug 2
check "a cable is pulled and nobody plugs it in: an error" fails run unplugged --topology "$IT/t.yml" --recover-timeout 1s
check "it names the worker" grep -q "'w2'" "$IT/err"
replug 2

#!/bin/bash
# The ways between machines: workers that cannot reach each other are relayed by the master with the same bits; --wire f16 and q8
# cost little accuracy and fewer bytes.
. "${0%/*}/lib.sh"
it_sandbox "$@"
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
M=$(model qwen3-8l-4bit-g32)
run() { # run NAME ARG...: 12 tokens on host 1, logits in $IT/NAME
    master 1 run --model "$M" --raw --temperature 0 -n 12 --cluster-key-file "$IT_KEY" --dump-logits "$IT/$1" "${@:2}" "Once upon a time there was a little girl"
}
worker 2 alpha --threads 1
worker 3 beta --threads 1
check "alpha listens" wait_until 20 port_open 1 "$(address 2)" 10128
check "beta listens" wait_until 20 port_open 1 "$(address 3)" 10128
printf 'alpha:\n  host: "%s:10128"\n  layers: ["model.layers.0-3"]\nbeta:\n  host: "%s:10128"\n  layers: ["model.layers.4-7"]\n' \
    "$(address 2)" "$(address 3)" >"$IT/t.yml"
check "alone" run alone --discovery-timeout 0

check "over both" run direct --topology "$IT/t.yml"

check "the same bits" cmp "$IT/direct" "$IT/alone"
check "nothing was relayed" fails grep -q 'relayed' "$IT/err"

# Narrower activations move the logits of a trained model a little (first row: later ones may follow other tokens).
random=$M
M=$(model babyllama105-mlx-4bit-g64)
sed 's/0-3/0-1/; s/4-7/2-4/' "$IT/t.yml" >"$IT/story.yml"
check "the story model alone" run story --discovery-timeout 0
row=$((4 * $(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$M/config.json")))
for wire in f16 q8; do
    check "--wire $wire" run $wire --topology "$IT/story.yml" --wire $wire
    read -r max rms < <("${B:-$REPO/build/release}/tests/tools/logit_diff" <(head -c $row "$IT/story") <(head -c $row "$IT/$wire"))
    check "$wire: other bits, logits within 15 % of their RMS (largest difference $max, RMS $rms)" \
        awk "BEGIN {exit !($max > 0 && $max < 0.15 * $rms)}"
done
M=$random

# Cut the way from alpha to beta, not the master's.
on 2 ip route add blackhole "$(address 3)/32"
check "alpha cannot reach beta" fails port_open 2 "$(address 3)" 10128
check "over both, relayed" run relayed --topology "$IT/t.yml"
check "the master says that it relays" grep -q 'relayed by the master' "$IT/err"
check "the same bits" cmp "$IT/relayed" "$IT/alone"
on 2 ip route del blackhole "$(address 3)/32"
check "the way is back" run again --topology "$IT/t.yml"
check "and taken" fails grep -q 'relayed' "$IT/err"
check "the same bits again" cmp "$IT/again" "$IT/alone"

# A link so slow that a large ping or chunk would look like silence.
shape 3 1mbit 4kb
printf 'beta:\n  host: "%s:10128"\n  layers: ["model.layers.1-3"]\n' "$(address 3)" >"$IT/slow.yml"
M=$(model stories260K-hf)
check "a model alone" run near --discovery-timeout 0
check "half of it over 1 Mbit/s" run slow --topology "$IT/slow.yml"
check "the same bits" cmp "$IT/slow" "$IT/near"
master 1 workers --json --cluster-key-file "$IT_KEY" --topology "$IT/slow.yml"
rate=$(sed -n 's/.*"link_bandwidth":\([0-9]*\).*/\1/p' "$IT/out")
check "it is known to be slow ($rate of 125000 bytes/s)" test "${rate:-0}" -gt 0 -a "${rate:-0}" -lt 1000000
shape 3 off
M=$random

# The cable of beta is pulled while it computes: an error that names it, in bounded time, and service afterwards.
check "a model of 51 MB" "${B:-$REPO/build/release}/tests/tools/make_model" 51mb "$IT/big" "$(model stories260K-hf)"
sed 's/"model.layers.0-3"/"model.layers.0-1"/; s/"model.layers.4-7"/"model.layers.2-2"/' "$IT/t.yml" >"$IT/big.yml"
pull() { wait_until 30 grep -q 'beta: ready' "$IT/err" && sleep 0.3 && unplug 3; }
pull &
MASTER_TIMEOUT=60 master 1 run --model "$IT/big" --raw --temperature 1.5 -n 100000 --context 2048 --cluster-key-file "$IT_KEY" --topology "$IT/big.yml" \
    --recover-timeout 0 "Once"
rc=$?
wait $!
same "an unplugged worker ends the answer with exit 69" 69 $rc
check "and is named" grep -q "'beta'" "$IT/err"
replug 3
check "plugged in again it serves" run plugged --topology "$IT/t.yml"
check "the same bits" cmp "$IT/plugged" "$IT/alone"
exit $IT_FAILED

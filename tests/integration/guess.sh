#!/bin/bash
# Guesses over two workers: windows of them are in flight, wrong ones are cut off and batches cancelled on their way; the logits
# of every position stay the same.
. "${0%/*}/lib.sh"
cd "$REPO" || exit 1
MODEL=tests/models/babyllama105-mlx-4bit-g64
export HOME=$IT XDG_CONFIG_HOME=$IT/config XDG_STATE_HOME=$IT/state
check "a cluster key" "$BIN/cake-master" cluster create --cluster-key-file "$IT/key" >"$IT/created" 2>&1
for w in one two; do
    spawn 0 $w "$BIN/cake-worker" --name $w --address 127.0.0.1:0 --cluster-key-file "$IT/key" --threads 1 --cache "$IT/cache-$w"
    check "worker $w listens" wait_log $w 30 'listens on' || exit 1
    port=$(sed -n "s/.*listens on [^ ]*:\([0-9]*\),.*/\1/p" "$IT/$w.log")
    printf '%s:\n  host: "127.0.0.1:%s"\n  layers: ["model.layers.%s"]\n' $w "$port" "$([[ $w == one ]] && echo 0-1 || echo 2-4)" >>"$IT/topology.yml"
done
figure() { awk -v n="$1" '$1 == n {print $2}' "$IT/figures"; }
"${B:-build/release}/tests/tools/serve_figures" "$MODEL" "$IT/topology.yml" "$IT/key" 1 256 same >"$IT/figures" 2>"$IT/err"
same "three texts have the same logits with and without guessing" 1 "$(figure same)"
check "$(figure right) of $(figure guessed) guesses were right" test "$(figure right)" -gt 100
echo "# after wrong ones $(figure canceled) batches were cancelled"

#!/bin/bash
# Nobody gets in: hostile connections of every kind against a real cake-worker, whose memory stays
# bounded, which says what it refused, and which serves its master before, between and after.
. "${0%/*}/lib.sh"
B=${B:-build/release}
[[ $B = /* ]] || B=$REPO/$B
ATTACK=$B/tests/tools/attack
MODEL=$(model stories260K-hf) || { skip "$TEST: no model to serve"; exit 0; }
story() { # the rightful master runs one short prompt on the worker
    MASTER_TIMEOUT=60 master 0 run --model "$MODEL" --cluster-key-file "$1" --topology "$IT/topology.yml" \
        --prompt "Once" --sample-len 4 --temperature 0 --raw
}

check "a key" key_new
check "a second key, of another cluster" key_new "$IT/other.key"
worker 0 alpha --address 127.0.0.1:0
check "the worker listens" wait_log alpha 20 'listens on'
PORT=$(sed -nE 's/.*listens on [^ ]*:([0-9]+).*/\1/p' "$IT/alpha.log" | head -n1)
check "and says where ($PORT)" test -n "$PORT"
printf 'alpha:\n  host: 127.0.0.1:%s\n  layers: [model.layers.0-4]\n' "$PORT" >"$IT/topology.yml"
if story "$IT_KEY"; then
    ok "its master is served"
    serves=yes
    cp "$IT/out" "$IT/want"
else
    not_ok "its master is served"
    serves=
fi
before=$(rss_kib alpha)

kinds=$("$ATTACK" list)
check "there are attacks to try" test "$(wc -w <<<"$kinds")" -ge 15
for kind in $kinds; do
    "$ATTACK" 127.0.0.1 "$PORT" "$kind" 4 >"$IT/attack.out" 2>&1
    rc=$?
    if [[ $rc == 0 ]] && alive alpha; then ok "hung up on: $(cat "$IT/attack.out")"
    else not_ok "attack $kind: exit $rc: $(cat "$IT/attack.out")"; fi
done
check "a crowd of half-open connections is let go" "$ATTACK" 127.0.0.1 "$PORT" silent 300
after=$(rss_kib alpha)
limit=$((before + 32768 * IT_SLOW))
check "memory stays bounded ($before KiB before, $after after)" test "$after" -lt $limit
check "what was refused is in the log" logged alpha 'event=client_refused'
check "and not a line for each" test "$(log_count alpha event=client_refused)" -lt 200

story "$IT/other.key"
rc=$?
same "another cluster's master is told that its key is refused" 77 $rc
check "in words" grep -qiE 'cluster|key' "$IT/err"
story_insecure() {
    MASTER_TIMEOUT=30 master 0 run --model "$MODEL" --insecure --topology "$IT/topology.yml" --prompt "Once" \
        --sample-len 4 --temperature 0 --raw
}
check "nor gets a master in without a key" fails story_insecure
check "the worker lives" alive alpha
if [[ $serves ]]; then
    check "and serves its own master again" story "$IT_KEY"
    check "with the same text" cmp "$IT/want" "$IT/out"
fi
check "it stops on request" stop alpha

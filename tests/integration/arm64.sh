#!/bin/bash
# The whole worker and engine built for 64-bit Arm, under emulation: the reference logits have the bits of this machine, and
# a cluster of an x86 master and an Arm worker generates the same logits as the master alone.
. "${0%/*}/lib.sh"
[[ $(uname -m) == x86_64 ]] || { skip "$TEST: for x86-64 machines; this one is $(uname -m)"; exit 0; }
case ${B:-} in *asan* | *tsan*) skip "$TEST: adds nothing under a sanitizer of this machine"; exit 0 ;; esac
it_need aarch64-linux-gnu-gcc qemu-aarch64-static
for lib in zmq crypto json-c avahi-core cmocka; do
    if [[ ! -e /usr/lib/aarch64-linux-gnu/lib$lib.so ]]; then
        skip "$TEST: lib$lib for arm64 is missing (deploy/install-deps.sh --arm64)"
        exit 0
    fi
done
cd "$REPO" || exit 1
A=build/arm64
build() {
    nice make -s -j2 CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar B=$A BIN=$A MASTER_LIBS="-lzmq -lcrypto -ljson-c -lm -pthread" \
        $A/cake-worker $A/tests/unit/test_reference >"$IT/build.log" 2>&1
}
check "cake-worker and the engine build for arm64" build || exit 1

digest() { CAKE_TEST_DIGEST=1 "$@" 2>/dev/null | grep -E ' (f32|int8) '; }
digest qemu-aarch64-static $A/tests/unit/test_reference >"$IT/arm"
digest "${B:-build/release}/tests/unit/test_reference" >"$IT/x86"
check "every reference model ran in both modes ($(wc -l <"$IT/arm") results)" test "$(wc -l <"$IT/arm")" -gt 50
same "NEON gives the bits of this machine" "" "$(diff "$IT/x86" "$IT/arm" | grep '^>' | cut -d' ' -f2,3 | head -n 5 | tr '\n' ';')"

key_new
MODEL=$(model babyllama105-mlx-4bit-g64)
generate() { master 0 run --model "$MODEL" --temperature 0 -n 40 --dump-logits "$IT/$1" "${@:2}" "Once upon a time"; }
check "the master alone" generate alone --discovery-timeout 0
cp "$IT/out" "$IT/alone.txt"
spawn 0 arm qemu-aarch64-static $A/cake-worker --name arm --address 127.0.0.1:0 --threads 1 --cluster-key-file "$IT_KEY" --cache "$IT/cache-arm"
check "an Arm worker starts" wait_log arm 60 'listens on' || exit 1
port=$(sed -n 's/.*listens on 127.0.0.1:\([0-9]*\).*/\1/p' "$IT/arm.log" | head -n 1)
printf 'arm:\n  host: "127.0.0.1:%s"\n  layers: ["model.layers.1-3"]\n' "$port" >"$IT/t.yml"
check "an x86 master with an Arm worker" generate together --topology "$IT/t.yml" --cluster-key-file "$IT_KEY"
check "the same text" cmp "$IT/out" "$IT/alone.txt"
check "the same logits, bit for bit" cmp "$IT/together" "$IT/alone"
exit $IT_FAILED

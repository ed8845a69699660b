#!/bin/bash
# Same bits on every instruction set this machine runs: the hashes of all logits of all reference models, int8 and f32 mode.
. "${0%/*}/lib.sh"
T=$REPO/${B:-build/release}/tests/unit/test_reference
if [[ ! -x $T ]]; then
    skip "$TEST: $T is not built"
    exit 0
fi
cd "$REPO" || exit 1
digest() { CAKE_TEST_DIGEST=1 CAKE_KERN=$1 "$T" 2>/dev/null | grep -E '^isa | (f32|int8) '; }
digest scalar >"$IT/scalar"
n=$(grep -vc '^isa ' "$IT/scalar")
check "the scalar kernels run every model in both modes ($n results)" test "$n" -gt 50
case $(uname -m) in aarch64) isas=neon ;; *) isas="avx2 avx512" ;; esac
for isa in $isas; do
    digest $isa >"$IT/$isa"
    if ! grep -q "^isa $isa$" "$IT/$isa"; then
        skip "$isa: this machine does not run it"
        continue
    fi
    different=$(diff <(grep -v ^isa "$IT/scalar") <(grep -v ^isa "$IT/$isa") | grep '^>' | cut -d' ' -f2,3 | head -n 5 | tr '\n' ';')
    same "the $isa kernels give the bits of the scalar ones" "" "$different"
done

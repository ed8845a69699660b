#!/bin/bash
# The bits of the row operations, rope and attention, for every ISA: tests/tools/vec_digest.c natively with
# each table, then cross-compiled for AArch64 and run under emulation. All must give the digests in
# tests/vectors/vec_digest.txt (made by `vec_digest scalar`): a change there changes what every model says,
# and must be meant.
cd "$(dirname "$0")/../.." || exit 1
name=neon_vec
cross=${CAKE_CROSS_CC:-aarch64-linux-gnu-gcc}
emu=${CAKE_AARCH64_RUN-qemu-aarch64-static}
native=${B:-build/release}/tests/tools/vec_digest
want=tests/vectors/vec_digest.txt
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
bad=0

check() { # LABEL COMMAND...
    label=$1
    shift
    "$@" >"$dir/got"
    rc=$?
    if [ $rc = 3 ]; then echo "skip - $name $label: this CPU or build lacks it"; return; fi
    if [ $rc != 0 ]; then echo "not ok - $name $label: exit $rc"; bad=1; return; fi
    if cmp -s "$dir/got" $want; then
        echo "ok - $name $label: $(wc -l <$want) digests"
    else
        echo "not ok - $name $label: other bits in: $(diff "$dir/got" $want | awk '/^>/ {print $2}' | tr '\n' ' ')"
        bad=1
    fi
}

[ -x "$native" ] || { echo "not ok - $name: $native is not built"; exit 1; }
case $(uname -m) in
x86_64) isas="scalar avx2 avx512" ;;
aarch64) isas="scalar neon" ;;
*) isas=scalar ;;
esac
for isa in $isas; do check "$isa" "$native" "$isa"; done
[ "$(uname -m)" = aarch64 ] && exit $bad

command -v "$cross" >/dev/null || { echo "skip - $name aarch64: $cross"; exit $bad; }
[ -z "$emu" ] || command -v "$emu" >/dev/null || { echo "skip - $name aarch64: $emu"; exit $bad; }
for f in kernels/cpu.c kernels/math.c kernels/rope.c kernels/vec*.c kernels/attn*.c tests/tools/vec_digest.c; do
    case $f in *_neon.c) isa=-march=armv8.2-a+dotprod+fp16 ;; *) isa= ;; esac
    "$cross" -std=c11 -O2 -I. -D_GNU_SOURCE -ffp-contract=off $isa -c "$f" -o "$dir/$(basename "$f" .c).o" ||
        { echo "not ok - $name aarch64: $f does not compile"; exit 1; }
done
"$cross" -static "$dir"/*.o -lm -o "$dir/digest" || { echo "not ok - $name aarch64: does not link"; exit 1; }
check "aarch64 neon" $emu "$dir/digest" neon
check "aarch64 scalar" $emu "$dir/digest" scalar
exit $bad

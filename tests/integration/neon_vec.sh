#!/bin/bash
# The NEON kernels against the x86 ones: cross-compile tests/tools/vec_digest.c, run it under emulation,
# compare every digest with the native scalar tables; and the scalar tables of the other machine likewise.
cd "$(dirname "$0")/../.." || exit 1
name=neon_vec
cross=${CAKE_CROSS_CC:-aarch64-linux-gnu-gcc}
emu=${CAKE_AARCH64_RUN-qemu-aarch64-static}
native=${B:-build/release}/tests/tools/vec_digest
command -v "$cross" >/dev/null || { echo "skip - $name: $cross"; exit 0; }
[ -z "$emu" ] || command -v "$emu" >/dev/null || { echo "skip - $name: $emu"; exit 0; }
[ -x "$native" ] || { echo "not ok - $name: $native is not built"; exit 1; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

flags="-std=c11 -O2 -I. -D_GNU_SOURCE -ffp-contract=off"
bad=0
for f in kernels/cpu.c kernels/math.c kernels/rope.c kernels/vec*.c kernels/attn*.c tests/tools/vec_digest.c; do
    case $f in *_neon.c) isa=-march=armv8.2-a+dotprod+fp16 ;; *) isa= ;; esac
    # shellcheck disable=SC2086
    "$cross" $flags $isa -c "$f" -o "$dir/$(basename "$f" .c).o" || bad=1
done
[ $bad = 0 ] && "$cross" -static "$dir"/*.o -lm -o "$dir/digest" || { echo "not ok - $name: does not compile"; exit 1; }

"$native" scalar >"$dir/want" || { echo "not ok - $name: the native scalar run failed"; exit 1; }
check() { # LABEL COMMAND...
    label=$1; shift
    "$@" >"$dir/got"
    rc=$?
    if [ $rc = 3 ]; then echo "skip - $name $label: the CPU lacks it"; return; fi
    if [ $rc != 0 ]; then echo "not ok - $name $label: exit $rc"; bad=1; return; fi
    while read -r op digest; do
        if [ "$(awk -v o="$op" '$1 == o {print $2}' "$dir/got")" = "$digest" ]; then
            echo "ok - $name $label $op"
        else
            echo "not ok - $name $label $op: other bits than the native scalar kernels"; bad=1
        fi
    done <"$dir/want"
}
check "aarch64 neon" $emu "$dir/digest" neon
check "aarch64 scalar" $emu "$dir/digest" scalar
exit $bad

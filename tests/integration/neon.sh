#!/bin/bash
# The matmul kernels give the same bits with NEON: cross-compile them with the digest tool, run it under
# qemu, compare with the digests of this machine's instruction sets.
# Environment: B (object folder), AARCH64_CC, QEMU_AARCH64.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build/release}
cc=${AARCH64_CC:-aarch64-linux-gnu-gcc} qemu=${QEMU_AARCH64:-qemu-aarch64-static}
name="matmul: NEON bits equal this machine's"
for need in "$cc" "$qemu"; do
    command -v "$need" >/dev/null || { echo "skip - $name: no $need"; exit 0; }
done
if [ ! -x "$B/tests/tools/matmul_digest" ]; then
    echo "skip - $name: $B/tests/tools/matmul_digest is not built"
    exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
flags="-I. -D_GNU_SOURCE -std=c11 -O2 -ffp-contract=off"
objects=
for f in kernels/cpu.c kernels/codec_decode.c kernels/codec_fp.c kernels/pack*.c kernels/matmul*.c tests/tools/matmul_digest.c; do
    isa=
    case $f in
    *_avx2.c | *_avx512.c | *_avx512vbmi.c) continue ;;
    *_neon.c) isa="-march=armv8.2-a+dotprod+fp16" ;;
    esac
    o=$tmp/$(basename "$f" .c).o
    # shellcheck disable=SC2086
    "$cc" $flags $isa -c "$f" -o "$o" || { echo "not ok - $name: $f does not compile"; exit 1; }
    objects="$objects $o"
done
# shellcheck disable=SC2086
"$cc" -static $objects -lm -o "$tmp/digest" || { echo "not ok - $name: does not link"; exit 1; }
"$qemu" -cpu max "$tmp/digest" >"$tmp/arm" || { echo "not ok - $name: fails under qemu"; exit 1; }
"$B/tests/tools/matmul_digest" >"$tmp/here" || { echo "not ok - $name: fails here"; exit 1; }
if ! grep -q ' neon ' "$tmp/arm"; then
    echo "not ok - $name: the emulated CPU has no dotprod"
    exit 1
fi
# One digest per case, over every ISA of both machines.
cat "$tmp/arm" "$tmp/here" | awk '{print $1, $3}' | sort -u | awk '{print $1}' | uniq -d >"$tmp/differ"
if [ -s "$tmp/differ" ]; then
    echo "not ok - $name: $(wc -l <"$tmp/differ") cases differ, first $(head -1 "$tmp/differ")"
    grep -hF "$(head -1 "$tmp/differ") " "$tmp/arm" "$tmp/here"
    exit 1
fi
echo "ok - $name ($(awk '{print $1}' "$tmp/arm" | sort -u | wc -l) cases, ISAs: $(cat "$tmp/arm" "$tmp/here" | awk '{print $2}' | sort -u | xargs))"

#!/bin/sh
# Print the compiler flags for a file name ending in _<isa>.c (the Makefile has the same table).
case "$1" in
*_avx2.c) echo "-mavx2 -mfma -mf16c" ;;
*_avx512.c) echo "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni" ;;
*_avx512vbmi.c) echo "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi" ;;
esac

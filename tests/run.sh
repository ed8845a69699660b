#!/bin/bash
# Run test programs and scripts, show the failures, close with "N passed, N failed, N skipped".
#   unit programs      cmocka; counted from its per-test lines
#   *.sh scripts       print "ok - NAME", "not ok - NAME: why", "skip - NAME: what is missing"
# Environment: B (object folder), BIN (programs), TEST_FILTER (run only what contains it), TEST_SKIP (leave out what matches
# this regular expression), V=1 (all output).
pass=0 fail=0 skip=0
log=$(mktemp)
# Sanitizers report into files: what a worker deep inside a script finds is a failure, whatever the script makes of its exit.
reports=$(mktemp -d)
chmod 777 "$reports"
trap 'rm -rf "$log" "$reports"' EXIT
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp log_path=$reports/tsan ${TSAN_OPTIONS-}"
export ASAN_OPTIONS="log_path=$reports/asan ${ASAN_OPTIONS-}" UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan ${UBSAN_OPTIONS-}"
for t in "$@"; do
    [[ -n $TEST_FILTER && $t != *$TEST_FILTER* ]] && continue
    [[ -n $TEST_SKIP && $t =~ $TEST_SKIP ]] && continue
    start=$(date +%s%N)
    case $t in
    *.sh) timeout "${TEST_TIMEOUT:-600}" bash "$t" >"$log" 2>&1 ;;
    *) timeout "${TEST_TIMEOUT:-600}" "$t" >"$log" 2>&1 ;;
    esac
    rc=$?
    case $t in
    *.sh)
        p=$(grep -ac '^ok - ' "$log") f=$(grep -ac '^not ok - ' "$log") s=$(grep -ac '^skip - ' "$log") ;;
    *)
        p=$(grep -ac '^\[       OK \]' "$log") f=$(grep -acE '^\[  (FAILED|ERROR)   ?\] [^0-9]' "$log")
        s=$(grep -ac '^\[  SKIPPED \] [^0-9]' "$log")
        # cmocka lists a failed test once when it ends and once in the summary
        f=$((f / 2)) s=$((s > 1 ? s / 2 : s)) ;;
    esac
    found=$(cat "$reports"/* 2>/dev/null)
    if [[ -n $found ]]; then f=$((f + 1)) && printf '%s\n' "$found" | head -n 300 >>"$log" && rm -f "$reports"/*; fi
    if ((rc != 0 && f == 0)); then f=1; fi
    pass=$((pass + p)) fail=$((fail + f)) skip=$((skip + s))
    printf '%-44s %4d passed %3d failed %3d skipped  %5d ms\n' "$(basename "$t")" $p $f $s \
        $((($(date +%s%N) - start) / 1000000))
    grep -aE '^skip - |^skip: ' "$log"
    if ((rc != 0 || f > 0)) || [[ -n $V ]]; then
        echo "--- $t (exit $rc)"; tail -n 200 "$log"; echo "---"
    fi
done
suffix=$([ $skip -gt 0 ] && echo ", $skip skipped")
echo "$pass passed, $fail failed$suffix"
[ $fail -eq 0 ] && [ $pass -gt 0 ]

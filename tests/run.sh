#!/bin/bash
# Run test programs and scripts, several at once, show the failures, close with "N passed, N failed, N skipped".
#   unit programs      cmocka; counted from its per-test lines
#   *.sh scripts       print "ok - NAME", "not ok - NAME: why", "skip - NAME: what is missing"
# Environment: B (object folder), BIN (programs), TEST_FILTER (run only what contains it), TEST_SKIP (leave out what matches
# this regular expression), TEST_JOBS (how many at once; one per core), V=1 (all output).
work=$(mktemp -d)
chmod 777 "$work"
trap 'rm -rf "$work"' EXIT
jobs=${TEST_JOBS:-$(nproc)}

# run_one TEST DIR: its lines for the reader into DIR/out, its counts into DIR/counts
run_one() {
    local t=$1 d=$2 log=$2/log start rc p f s found
    # Sanitizers report into files: what a worker deep inside a script finds is a failure, whatever the script makes of its exit.
    mkdir -p "$d/reports" && chmod 777 "$d" "$d/reports"
    export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp log_path=$d/reports/tsan ${TSAN_OPTIONS-}"
    export ASAN_OPTIONS="log_path=$d/reports/asan ${ASAN_OPTIONS-}"
    export UBSAN_OPTIONS="print_stacktrace=1:log_path=$d/reports/ubsan ${UBSAN_OPTIONS-}"
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
    found=$(cat "$d/reports"/* 2>/dev/null)
    if [[ -n $found ]]; then f=$((f + 1)) && printf '%s\n' "$found" | head -n 300 >>"$log"; fi
    if ((rc != 0 && f == 0)); then f=1; fi
    echo "$p $f $s" >"$d/counts"
    {
        printf '%-44s %4d passed %3d failed %3d skipped  %5d ms\n' "$(basename "$t")" "$p" "$f" "$s" \
            $((($(date +%s%N) - start) / 1000000))
        grep -aE '^skip - |^skip: ' "$log"
        if ((rc != 0 || f > 0)) || [[ -n $V ]]; then
            echo "--- $t (exit $rc)"
            tail -n 200 "$log"
            echo "---"
        fi
    } >"$d/out"
    rm -rf "$log" "$d/reports"
}

# Scripts first: they are the long ones, and mostly wait.
list=() n=0
for t in "$@"; do [[ $t == *.sh ]] && list+=("$t"); done
for t in "$@"; do [[ $t == *.sh ]] || list+=("$t"); done
for t in "${list[@]}"; do
    [[ -n $TEST_FILTER && $t != *$TEST_FILTER* ]] && continue
    [[ -n $TEST_SKIP && $t =~ $TEST_SKIP ]] && continue
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    n=$((n + 1))
    (run_one "$t" "$work/$n"; cat "$work/$n/out") &
done
wait
pass=0 fail=0 skip=0
for ((i = 1; i <= n; i++)); do
    read -r p f s <"$work/$i/counts" || { p=0 f=1 s=0; }
    pass=$((pass + p)) fail=$((fail + f)) skip=$((skip + s))
done
suffix=$([ $skip -gt 0 ] && echo ", $skip skipped")
echo "$pass passed, $fail failed$suffix"
[ $fail -eq 0 ] && [ $pass -gt 0 ]

#!/bin/sh
# Read benchmark JSON lines, list the cases under their bar, count; exit 1 when there are any. AVX2 has no bar of its own:
# it is held to a part of what AVX-512 reached in the same run (0.7 of it for one token, 0.4 for 512).
awk '
function field(name,   at, s) {
    at = index($0, "\"" name "\":"); if (!at) return ""
    s = substr($0, at + length(name) + 3); sub(/[,}].*/, "", s); gsub(/"/, "", s); return s
}
/^\{"bench"/ {
    bar = field("bar"); reached = field("ratio"); line = $0
    key = field("bench") " " field("format") " " field("n") " " field("threads")
    if (field("isa") == "avx512") best[key] = field("value")
    if (field("bench") == "matmul" && field("isa") == "avx2" && best[key] > 0) {
        bar = field("n") == 1 ? 0.7 : field("n") == 512 ? 0.4 : 0
        reached = field("value") / best[key]
        line = line sprintf(" (%.2f of avx512, bar %.2f)", reached, bar)
    }
    if (bar + 0 == 0) next
    n++; if (reached + 0 < bar + 0) { bad++; print line }
}
END { printf "%d cases with a bar, %d under it\n", n, bad; exit bad > 0 }'

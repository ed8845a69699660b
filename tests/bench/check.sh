#!/bin/sh
# Read benchmark JSON lines, list the cases whose ratio is under their bar or over their cap, count; exit 1 when there are any.
awk '
function field(name,   at, s) {
    at = index($0, "\"" name "\":"); if (!at) return ""
    s = substr($0, at + length(name) + 3); sub(/[,}].*/, "", s); return s
}
/^\{"bench"/ {
    bar = field("bar") + 0; cap = field("cap") + 0; ratio = field("ratio") + 0
    if (bar == 0 && cap == 0) next
    n++; if (ratio < bar || (cap > 0 && ratio > cap)) { bad++; print }
}
END { printf "%d cases with a bar, %d miss it\n", n, bad; exit bad > 0 }'

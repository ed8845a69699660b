#!/bin/sh
# Read benchmark JSON lines, list the cases under their bar, count; exit 1 when there are any.
awk '
function field(name,   at, s) {
    at = index($0, "\"" name "\":"); if (!at) return ""
    s = substr($0, at + length(name) + 3); sub(/[,}].*/, "", s); return s
}
/^\{"bench"/ {
    bar = field("bar"); if (bar + 0 == 0) next
    n++; if (field("ratio") + 0 < bar + 0) { bad++; print }
}
END { printf "%d cases with a bar, %d under it\n", n, bad; exit bad > 0 }'

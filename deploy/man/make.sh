#!/bin/sh
# Put the sections a program prints from its option table between the hand-written ones.
#   deploy/man/make.sh PROGRAM PAGE.in >PAGE
# A line @NAME@ in PAGE.in becomes the section ".SH NAME" of `PROGRAM --dump-man`; @VERSION@ the version.
set -eu
dump=$(mktemp)
trap 'rm -f "$dump"' EXIT
"$1" --dump-man >"$dump"
version=$("$1" --version | awk '{print $2}')
awk -v dump="$dump" -v version="$version" '
BEGIN {
    while ((getline line < dump) > 0) {
        if (line ~ /^\.SH /) section = substr(line, 5)
        text[section] = text[section] line "\n"
    }
    print ".\\\" Made from " ARGV[1] " and the option table by `make man`; change those."
}
/^@[A-Z]+@$/ {
    name = substr($0, 2, length($0) - 2)
    if (!(name in text)) { print "make.sh: no section " name > "/dev/stderr"; exit 1 }
    printf "%s", text[name]
    next
}
{ gsub(/@VERSION@/, version); print }' "$2"

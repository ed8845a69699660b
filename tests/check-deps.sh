#!/bin/sh
# Enforce who may include whom: common <- proto <- worker <- master; kernels needs libc only.
# master may see of worker/ only its embedding header worker/embed.h. tests/ may include anything.
cd "$(dirname "$0")/.." || exit 1
bad=0
rule() { # DIR FORBIDDEN-REGEX [ALLOWED-REGEX]
    hits=$(find "$1" -name '*.[ch]' -exec grep -nHE "^ *# *include \"($2)/" {} + | grep -vE "${3:-^$}")
    if [ -n "$hits" ]; then echo "check-deps: $1 must not include:"; echo "$hits"; bad=1; fi
}
rule common 'proto|kernels|worker|master|tests'
rule proto 'kernels|worker|master|tests'
rule kernels 'common|proto|worker|master|tests'
rule worker 'master|tests'
rule master 'worker|tests' '"worker/embed\.h"'
exit $bad

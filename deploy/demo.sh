#!/bin/sh
# make demo: see Cake work on this one machine. Builds, starts two cake-worker and one cake-master as separate processes that
# find each other by mDNS under a cluster key of their own, splits a small story model that the repository ships, and prints
# the plan, a story, the time of each stage and tokens/s. Stops everything it started.
#
#   MODEL=DIR PROMPT=TEXT TOKENS=N   other than the default model, prompt and length
set -eu
cd "$(dirname "$0")/.."
MODEL=${MODEL:-tests/models/babyllama105-mlx-4bit-g64}
PROMPT=${PROMPT:-Once upon a time}
TOKENS=${TOKENS:-230}
say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
if [ ! -t 2 ] || [ -n "${NO_COLOR:-}" ]; then say() { printf '\n%s\n' "$*" >&2; }; fi

say "1. Packages"
deploy/install-deps.sh --build
echo "everything needed is there" >&2

say "2. Build"
${MAKE:-make} -s -j"$(nproc)" all
ls -l build/cake-worker build/cake-master >&2

# Nothing of the user's is read or written: own key, caches and settings.
tmp=$(mktemp -d)
workers=
finish() {
    trap - EXIT INT TERM HUP
    for p in $workers; do kill "$p" 2>/dev/null || true; done
    # a worker says goodbye on the network first; give it two seconds
    n=0
    for p in $workers; do
        while kill -0 "$p" 2>/dev/null && [ $n -lt 20 ]; do sleep 0.1; n=$((n + 1)); done
        kill -9 "$p" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
for v in $(env | sed -n 's/^\(CAKE_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done
export XDG_CONFIG_HOME="$tmp/config" XDG_STATE_HOME="$tmp/state" XDG_CACHE_HOME="$tmp/cache"

say "3. A cluster key, and two workers"
key=$tmp/cluster.key
build/cake-master cluster create --cluster-key-file "$key" >/dev/null
for name in demo-one demo-two; do
    echo "+ cake-worker --name $name" >&2
    build/cake-worker --name $name --address 0.0.0.0:0 --cluster-key-file "$key" --cache "$tmp/$name" --threads 1 2>"$tmp/$name.log" &
    workers="$workers $!"
done

say "4. The master finds them, splits $(basename "$MODEL"), and tells a story"
echo "+ cake-master --model $MODEL --prompt '$PROMPT'" >&2
status=0
build/cake-master --model "$MODEL" --cluster-key-file "$key" --cache "$tmp/master" --threads 1 --min-workers 2 \
    --discovery-timeout 15s --temperature 0 --sample-len "$TOKENS" --echo --prompt "$PROMPT" || status=$?
if [ $status != 0 ]; then
    say "The demo failed (exit status $status). What the workers said:"
    tail -n 20 "$tmp"/demo-*.log >&2
    exit $status
fi
say "That was it. On your own machines: cake-worker on each, and on the one with the model: cake-master --model DIR"

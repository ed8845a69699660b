#!/bin/bash
# Discovery through the system's avahi-daemon (real dbus-daemon and avahi-daemon on each host): other programs see the workers,
# the master finds them, joining and leaving is noticed, and hosts with and without a daemon find each other.
. "${0%/*}/lib.sh"
it_sandbox "$@"
it_need dbus-daemon avahi-daemon avahi-browse
if ! can_avahi; then
    skip "$TEST: avahi-daemon needs root"
    exit 0
fi
M=$(model babyllama105-mlx-4bit-g64) || exit 1
check "four hosts" hosts 4 || exit 1
check "a cluster key" key_new || exit 1
for i in 1 2 3; do check "avahi-daemon runs on host $i" avahi_start $i; done
worker 2 alpha --threads 1
worker 3 beta --threads 1
browsed() { browse 1 _cake._tcp | grep -E "^=;eth0;IPv4;.*\"name=$1\"" >"$IT/browsed"; }
check "avahi-browse shows alpha" wait_until 15 browsed alpha
with_address() { browsed alpha && grep -q ';node2.local;10.77.0.2;10128;' "$IT/browsed"; } # its IPv6 address may be known first
check "with its host, address and port" wait_until 15 with_address
check "avahi-browse shows beta" wait_until 15 browsed beta
discovers_both
check "alpha is in the list" grep -q '"alpha"' "$IT/out"
check "beta is in the list" grep -q '"beta"' "$IT/out"
check "a story over both" master 1 --model "$M" --cluster-key-file "$IT_KEY" --raw --temperature 0 -n 16 --threads 1 --echo \
    --min-workers 2 --discovery-timeout 20 --prompt "Once upon a time"
check "is a story" grep -q '^Once upon a time, there was' "$IT/out"
worker 4 gamma --threads 1
check "a worker without a daemon is browsed by those with one" wait_until 15 browsed gamma
check "gamma stops" stop gamma
check "and is gone" wait_until 15 fails browsed gamma
check "beta stops" stop beta
check "and is gone" wait_until 15 fails browsed beta
check "the daemon dies under alpha" avahi_stop 2
check "alpha lives on" alive alpha
check "the daemon is back" avahi_start 2
check "alpha advertises again" wait_until 20 browsed alpha
check "alpha stops on request" stop alpha

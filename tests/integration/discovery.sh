#!/bin/bash
# What a LAN does to discovery: cables plugged in late, addresses that change, an avahi-daemon that is
# restarted, a daemon on one host and the built-in responder on another, several nodes of one name per host.
. "${0%/*}/lib.sh"
it_sandbox "$@"
it_need nsenter
B=${B:-build/release}
[[ $B = /* ]] || B=$REPO/$B
node() { spawn "$1" "$2" "$B/tests/tools/discover" --for 120000 "${@:3}"; } # node HOST LOG OPTION...
sees() { wait_until "$2" logged "$1" "^(found|changed) [0-9a-f]{32} $3 $4 "; } # sees LOG SECONDS NAME PORT
loses() { wait_until "$2" logged "$1" "^lost [0-9a-f]{32} $3 $4 "; }
age() { sed -nE "s/^found [0-9a-f]{32} $2 $3 .* ([0-9]+)$/\1/p" "$IT/$1.log" | head -n1; } # ms after the start of LOG

check "three hosts on one bridge" hosts 3 || exit 1
node 1 one --advertise 4001 --name same --backend embedded
node 1 two --advertise 4002 --name same --backend embedded
node 2 far --advertise 4003 --name far --backend embedded
node 2 foreign --advertise 4004 --name foreign --tag 00000000deadbeef --backend embedded
check "responders start without a daemon" wait_log foreign 10 '^up embedded'
node 3 browser --browse --backend embedded
check "two nodes of one name on one host are both found" sees browser 10 same 4001
check "the second, too" sees browser 10 same 4002
check "and one on another host" sees browser 10 far 4003
check "by an address of theirs" logged browser "far 4003 .*$(address 2):4003"
check "of another cluster nothing is seen" fails logged browser foreign
echo "# found after $(age browser same 4001), $(age browser same 4002), $(age browser far 4003) ms"
check "one leaves" stop two
check "and is missed" loses browser 10 same 4002
check "while the other stays" fails logged browser '^lost .* same 4001 '

unplug 2
node 2 late --advertise 4005 --name late --backend embedded
check "a node starts without a network" wait_log late 10 '^up'
sleep 1
replug 2
check "and is found once the cable is in" sees browser 20 late 4005
on 2 ip addr del 10.77.0.2/24 dev eth0
on 2 ip addr add 10.77.0.22/24 brd + dev eth0
check "a changed address is noticed" wait_log browser 30 'late 4005 .*10\.77\.0\.22:4005'

if ! can_avahi || ! command -v avahi-daemon dbus-daemon >/dev/null; then
    skip "discovery with avahi-daemon: needs root, avahi-daemon and dbus-daemon"
    exit 0
fi
check "avahi-daemon runs on host 1" avahi_start 1
node 1 viadaemon --advertise 4006 --name viadaemon
node 1 watcher --browse
check "the daemon is used where there is one" wait_log viadaemon 10 '^up avahi-daemon'
check "its node is found by a built-in responder elsewhere" sees browser 15 viadaemon 4006
check "and finds those" sees watcher 15 late 4005
avahi_stop 1
check "when the daemon stops its node is gone" loses browser 15 viadaemon 4006
check "the processes live" alive viadaemon
rm -f "$IT/dbus1.log" "$IT/avahi1.log"
: >"$IT/browser.log"
check "the daemon comes back" avahi_start 1
check "and its node with it" sees browser 30 viadaemon 4006

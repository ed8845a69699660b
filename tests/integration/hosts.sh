#!/bin/bash
# The test hosts themselves: reachability, byte counters, shaping, cables, Avahi. When this fails, the others mean nothing.
. "${0%/*}/lib.sh"
it_sandbox "$@"
it_need tc dbus-daemon avahi-daemon avahi-browse python3 avahi-publish-service

check "three hosts on one bridge" hosts 3 || exit 1
same "hosts have names of their own" "node2" "$(on 2 hostname)"
cat >"$IT/serve.py" <<'P'
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", 7000)); s.listen()
print("listening", flush=True)
while True:
    c, _ = s.accept(); n = 0
    while d := c.recv(65536): n += len(d)
    print("received", n, flush=True); c.close()
P
cat >"$IT/send.py" <<'P'
import socket, sys
c = socket.create_connection((sys.argv[1], 7000), timeout=20); c.settimeout(20); c.sendall(b"x" * int(sys.argv[2])); c.shutdown(socket.SHUT_WR)
c.recv(1)
P
spawn 1 server python3 "$IT/serve.py"
check "a program starts on a host" wait_log server 10 listening
before=$(rx 1)
check "bytes go from host to host" on 2 python3 "$IT/send.py" "$(address 1)" 1000000
grew=$(($(rx 1) - before))
check "the counter saw them ($grew)" test $grew -ge 1000000 -a $grew -le 1200000
check "hosts that are not the receiver saw next to nothing" test "$(rx 3)" -lt 200000
start=$(now_ms)
check "shaping can be set" shape 2 20mbit
check "a shaped host still sends" on 2 python3 "$IT/send.py" "$(address 1)" 1000000
took=$(($(now_ms) - start))
check "at the shaped rate (1 MB in $took ms at 20 Mbit/s)" test $took -ge 300
check "shaping can be lifted" shape 2 off
unplug 2
check "an unplugged host reaches nobody" fails port_open 2 "$(address 1)" 7000
replug 2
check "a host plugged in again does" wait_until 5 port_open 2 "$(address 1)" 7000
check "a program stops on request" stop server

if ! can_avahi; then
    skip "avahi on hosts: needs root"
    exit 0
fi
for i in 1 2; do check "avahi-daemon runs on host $i" avahi_start $i; done
spawn 1 publish avahi-publish-service -v alpha _cake._tcp 10128 v=1 name=alpha
seen() { browse 2 _cake._tcp | grep -q '^=;eth0;IPv4;alpha;.*;node1.local;10.77.0.1;10128;'; }
check "host 2 browses what host 1 publishes" wait_until 10 seen
check "host 3, without a daemon, has no bus" test -z "$(on 3 ls /run)"
check "the publisher goes" stop publish

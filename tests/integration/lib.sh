# Library of the integration tests: hosts made of network namespaces, real programs in them, deadlines on every wait.
#
#   . "${0%/*}/lib.sh"
#   it_sandbox "$@"            # only where hosts are wanted: run the rest in namespaces of its own, or skip
#   hosts 3                    # hosts 1..3: 10.77.0.1 to .3 on one bridge, host names node1..node3
#   worker 1 alpha             # cake-worker --name alpha on host 1, log in $IT/alpha.log
#   check "the worker listens" wait_log alpha 10 'listening'
#   master 2 --model DIR ...   # cake-master on host 2 until it ends: $IT/out, $IT/err, exit status
#
# `check NAME COMMAND...` prints "ok - NAME" or "not ok - NAME: why"; `skip NAME: what is missing`. Everything that was started
# ends with the script, however that ends: the sandbox is a PID namespace whose first process is the script itself. Root is
# not needed where the kernel allows user namespaces. Host 0 is the machine itself (the sandbox's loopback), for tests
# that need no network; those may leave it_sandbox out.

set -u
IT_DIR_OF_LIB=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
REPO=$(cd "$IT_DIR_OF_LIB/../.." && pwd)
BIN=${BIN:-build}
[[ $BIN = /* ]] || BIN=$REPO/$BIN
TEST=$(basename "${0%.sh}")
# Sanitizers are slow: every deadline is stretched.
case ${B:-} in *tsan*) IT_SLOW=8 ;; *asan*) IT_SLOW=4 ;; *) IT_SLOW=1 ;; esac
for v in ${!CAKE_@}; do [[ $v == CAKE_IT_INSIDE || $v == CAKE_ISA || $v == CAKE_KERN ]] || unset "$v"; done

# ---------------------------------------------------------------- results

IT_FAILED=0
ok() { echo "ok - $*"; }
skip() { echo "skip - $*"; }
not_ok() {
    echo "not ok - $*"
    local f
    ((IT_FAILED++ < 2)) || return # the logs of the first failures are telling
    for f in "$IT"/*.log "$IT"/err; do
        [[ -s $f ]] || continue
        echo "#   $(basename "$f"), last lines:"
        tail -n 12 "$f" | sed 's/^/#   | /'
    done
}
# check NAME COMMAND...: ok when the command succeeds
check() {
    local name=$1 why
    shift
    if "$@"; then
        ok "$name"
    else
        why=$?
        not_ok "$name: '${*:1:12}' gave $why"
        return 1
    fi
}
# same NAME EXPECTED GOT
same() {
    if [[ $2 == "$3" ]]; then ok "$1"; else not_ok "$1: expected '$2', got '$3'"; fi
}

# ---------------------------------------------------------------- sandbox

# it_need PROGRAM...: skip the whole test when one is missing
it_need() {
    local p
    for p in "$@"; do
        if ! command -v "$p" >/dev/null; then
            skip "$TEST: $p is missing (deploy/install-deps.sh --test)"
            exit 0
        fi
    done
}

# it_sandbox "$@": start this script again as the first process of new network, mount and PID namespaces
it_sandbox() {
    if [[ -n ${CAKE_IT_INSIDE:-} ]]; then
        mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip link set lo up || {
            not_ok "$TEST: the sandbox cannot be set up"
            exit 1
        }
        return
    fi
    it_need unshare nsenter ip
    local flags=(--mount --net --pid --fork --kill-child --mount-proc)
    [[ $(id -u) == 0 ]] || flags+=(--user --map-root-user)
    if ! unshare "${flags[@]}" sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip netns add probe' 2>/dev/null; then
        skip "$TEST: network namespaces need root or unprivileged user namespaces"
        exit 0
    fi
    rm -rf "$IT" # the script makes another one inside
    CAKE_IT_INSIDE=1 exec unshare "${flags[@]}" bash "$0" "$@"
}

IT=$(mktemp -d "${TMPDIR:-/tmp}/cake-test-XXXXXX")
declare -A IT_PID=()
declare -a IT_HOLDER=()
it_cleanup() {
    local rc=$? p
    for p in "${IT_PID[@]}" "${IT_HOLDER[@]}"; do kill -9 "$p" 2>/dev/null; done
    wait 2>/dev/null
    if [[ -n ${IT_KEEP:-} ]]; then echo "# kept: $IT"; else rm -rf "$IT"; fi
    [[ $rc -ne 0 || $IT_FAILED -eq 0 ]] || rc=1
    exit "$rc"
}
trap it_cleanup EXIT
trap 'exit 143' TERM INT HUP

# ---------------------------------------------------------------- hosts

# hosts N: namespaces cake-test-PID-1..N joined by a bridge; each host has a /run and a host name of its own
hosts() {
    local i ns
    ip link add cakebr type bridge || return 1
    # no querier on this bridge: snooping would drop multicast after a while
    ip link set cakebr type bridge mcast_snooping 0 2>/dev/null
    ip link set cakebr up
    for ((i = 1; i <= $1; i++)); do
        ns=cake-test-$$-$i
        ip netns add "$ns" && ip link add "port$i" type veth peer name eth0 netns "$ns" || return 1
        ip link set "port$i" master cakebr up
        # no duplicate address detection: link-local addresses are usable at once
        ip netns exec "$ns" sh -c "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set lo up; ip link set eth0 up;
            ip addr add 10.77.0.$i/24 brd + dev eth0; ip route add default dev eth0" 2>/dev/null
        mkdir -p "$IT/host$i/home"
        ip netns exec "$ns" unshare --mount --uts --propagation private sh -c "
            hostname node$i; mount -t tmpfs tmpfs /run; : >'$IT/host$i/ready'; exec sleep infinity" &
        IT_HOLDER[i]=$!
        disown
    done
    for ((i = 1; i <= $1; i++)); do wait_until 10 test -e "$IT/host$i/ready" || return 1; done
}
address() { echo "10.77.0.$1"; } # address I

# on I COMMAND...: run it on host I (0: here), with a home of its own
it_on() { # sets IT_ON to the words that run a command on host $1
    local home=$IT/host$1/home
    mkdir -p "$home"
    IT_ON=(env HOME="$home" XDG_CONFIG_HOME="$home/.config" XDG_CACHE_HOME="$home/.cache" XDG_DATA_HOME="$home/.local/share"
        XDG_STATE_HOME="$home/.local/state" LC_ALL=C.UTF-8 TERM=dumb)
    [[ $1 == 0 ]] || IT_ON=(nsenter -t "${IT_HOLDER[$1]}" --net --mount --uts -- "${IT_ON[@]}")
}
on() {
    it_on "$1"
    "${IT_ON[@]}" "${@:2}"
}

# rx I, tx I: bytes that host I has received, sent so far
rx() { on "$1" cat /sys/class/net/eth0/statistics/rx_bytes; }
tx() { on "$1" cat /sys/class/net/eth0/statistics/tx_bytes; }
# shape I RATE [BURST]: limit host I in both directions, e.g. 20mbit; shape I off. A burst below the 64 KiB that TCP hands to a
# network device at once makes the kernel cut that into packets; else slow links lose all of it or nothing.
shape() {
    if [[ $2 == off ]]; then
        on "$1" tc qdisc del dev eth0 root
        tc qdisc del dev "port$1" root
    else
        on "$1" tc qdisc replace dev eth0 root tbf rate "$2" burst "${3:-64kb}" latency 200ms &&
            tc qdisc replace dev "port$1" root tbf rate "$2" burst "${3:-64kb}" latency 200ms
    fi
}
unplug() { ip link set "port$1" down; } # the cable of host I, as seen by the others
replug() { ip link set "port$1" up; }

# ---------------------------------------------------------------- processes

# spawn I NAME COMMAND...: in the background on host I; output in $IT/NAME.log
spawn() {
    it_on "$1"
    (exec "${IT_ON[@]}" "${@:3}") >>"$IT/$2.log" 2>&1 </dev/null &
    IT_PID[$2]=$!
    disown
}
pid_of() { echo "${IT_PID[$1]}"; }
# it_child PID NAME: a process called NAME below PID
it_child() {
    local c
    for c in $(cat "/proc/$1/task/"*/children 2>/dev/null); do
        if [[ $(cat "/proc/$c/comm" 2>/dev/null) == "$2" ]]; then
            echo "$c"
            return
        fi
        it_child "$c" "$2" && return
    done
    return 1
}
alive() { [[ -n ${IT_PID[$1]:-} ]] && kill -0 "${IT_PID[$1]}" 2>/dev/null; }
gone() { ! alive "$1"; }
# send NAME SIGNAL
send() { kill -"$2" "$(pid_of "$1")"; }
# stop NAME [SIGNAL [SECONDS]]: TERM, then KILL after the deadline; fails when KILL was needed
stop() {
    local name=$1 rc=0
    if alive "$name"; then
        send "$name" "${2:-TERM}" 2>/dev/null
        if ! wait_until "${3:-5}" gone "$name"; then
            send "$name" KILL
            wait_until 5 gone "$name"
            rc=1
        fi
    fi
    unset "IT_PID[$name]"
    return $rc
}

# ---------------------------------------------------------------- waiting

# wait_until SECONDS COMMAND...: poll until it succeeds; fails after the deadline
wait_until() {
    local end=$(($(date +%s%N) + $1 * 1000000000 * IT_SLOW))
    shift
    until "$@"; do
        (($(date +%s%N) < end)) || return 1
        sleep 0.05
    done
}
logged() { grep -qE -- "$2" "$IT/$1.log" 2>/dev/null; }      # logged NAME REGEX
wait_log() { wait_until "$2" logged "$1" "$3"; }              # wait_log NAME SECONDS REGEX
log_count() { grep -cE -- "$2" "$IT/$1.log" 2>/dev/null; }   # log_count NAME REGEX
port_open() { on "$1" timeout 2 bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null; } # port_open FROM ADDRESS PORT
fails() { ! "$@"; } # fails COMMAND...: the opposite, for check
# rss_kib NAME: resident memory
rss_kib() { awk '/^VmRSS/ {print $2}' "/proc/$(pid_of "$1")/status"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# ---------------------------------------------------------------- Avahi

# avahi_start I: a real dbus-daemon and avahi-daemon on host I, which then finds them where a system has them
avahi_start() {
    local i=$1 d=$IT/host$1
    cat >"$d/dbus.conf" <<EOF
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
EOF
    cat >"$d/avahi.conf" <<EOF
[server]
host-name=node$i
use-ipv4=yes
use-ipv6=yes
allow-interfaces=eth0
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
[rlimits]
EOF
    on "$i" mkdir -p /run/dbus /run/avahi-daemon
    spawn "$i" "dbus$i" dbus-daemon --config-file="$d/dbus.conf" --nofork --nopidfile
    wait_until 5 on "$i" test -S /run/dbus/system_bus_socket || return 1
    spawn "$i" "avahi$i" avahi-daemon --file="$d/avahi.conf" --no-drop-root --no-chroot --no-proc-title --no-rlimits
    wait_log "avahi$i" 10 'Server startup complete'
}
avahi_stop() { stop "avahi$1"; stop "dbus$1"; }
# avahi-daemon wants the account of its package, which a user namespace does not have
can_avahi() { awk '{n += $3} END {exit n < 1000}' /proc/self/uid_map; }
# browse I TYPE: resolved services as avahi-browse -p prints them
browse() { on "$1" timeout 10 avahi-browse --resolve --parsable --terminate "$2"; }

# ---------------------------------------------------------------- Cake

IT_KEY=$IT/cluster.key
# key_new [FILE]: a cluster key made by the program itself
key_new() { on 0 "$BIN/cake-master" cluster create --cluster-key-file "${1:-$IT_KEY}" >"$IT/key.log" 2>&1; }
# worker I NAME [ARG...]: with the test's key, a cache of its own, the default port
worker() {
    local i=$1 name=$2
    shift 2
    spawn "$i" "$name" "$BIN/cake-worker" --name "$name" --cluster-key-file "$IT_KEY" --cache "$IT/cache-$name" "$@"
}
# master I ARG...: until it ends; stdout in $IT/out, stderr in $IT/err; MASTER_TIMEOUT seconds at most
master() {
    local i=$1 slow=()
    shift
    # a worker answers once it has measured itself, which takes a sanitizer's worker seconds
    if ((IT_SLOW > 1)) && [[ " $* " == *" --topology "* && " $* " != *" --discovery-timeout "* ]]; then
        slow=(--discovery-timeout $((10 * IT_SLOW)))
    fi
    on "$i" timeout -k 5 $((${MASTER_TIMEOUT:-60} * IT_SLOW)) "$BIN/cake-master" "$@" "${slow[@]}" >"$IT/out" 2>"$IT/err" </dev/null
}
# discovers_both: the master on host 1 finds two workers; how long it took is printed. The aim is 2 s with the start of the
# program; only a multiple of that fails, because a busy machine is no defect.
discovers_both() {
    local start took rc=0
    start=$(now_ms)
    master 1 workers --json --cluster-key-file "$IT_KEY" --min-workers 2 --discovery-timeout $((10 * IT_SLOW)) || rc=$?
    took=$(($(now_ms) - start))
    check "discovery finds both ($took ms; aim 2000, limit $((10000 * IT_SLOW)))" test $rc == 0 -a $took -le $((10000 * IT_SLOW))
}
# model NAME: a model folder that the repository ships or that lies beside it; fails when there is none
model() {
    local d
    for d in "$REPO/tests/models/$1" "$REPO/tests/vectors/reference/$1" "$REPO/../shared/data/models/$1"; do
        if [[ -d $d ]]; then echo "$d"; return; fi
    done
    return 1
}

#!/bin/sh
# Install the Debian packages that Cake needs, only those that are missing.
#
#   deploy/install-deps.sh [--build] [--test] [--browser] [--arm64] [--check] [--list]
#
#   --build   what `make` needs (the default)
#   --test    what `make test` needs on top
#   --browser what the tests of the web page need: Chromium
#   --arm64   libraries for building the worker for 64-bit Arm beside this machine's own (adds the
#             architecture to dpkg); a test runs it under emulation where they are there
#   --check   install nothing; print what is missing, exit 1 when anything is
#   --list    print the package names and stop
#
# Uses sudo when not root and asks before that; ASSUME_YES=1 does not ask.
set -eu

build="gcc libc6-dev make pkg-config libzmq3-dev libssl-dev libjson-c-dev libavahi-client-dev libavahi-core-dev
       libpcre2-dev libutf8proc-dev libyaml-dev libedit-dev libevent-dev"
test="libcmocka-dev clang libclang-rt-14-dev clang-format qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross
      avahi-daemon avahi-utils dbus iproute2 procps util-linux python3 python3-venv openssl curl"

browser="chromium fonts-dejavu-core"
arm64="libzmq3-dev:arm64 libssl-dev:arm64 libjson-c-dev:arm64 libavahi-client-dev:arm64 libavahi-core-dev:arm64 libcmocka-dev:arm64"

want= check= list= foreign=
for a in "$@"; do
    case $a in
    --build) want="$want $build" ;;
    --test) want="$want $test" ;;
    --browser) want="$want $browser" ;;
    --arm64) want="$want $arm64" foreign=arm64 ;;
    --check) check=1 ;;
    --list) list=1 ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install-deps.sh: unknown option '$a' (see --help)" >&2; exit 2 ;;
    esac
done
[ -n "$want" ] || want=$build
want=$(echo $want | tr ' ' '\n' | sort -u | tr '\n' ' ')
if [ -n "$list" ]; then echo "$want"; exit 0; fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps.sh: this system has no apt-get. Install the development packages of: libzmq, OpenSSL (libcrypto)," >&2
    echo "json-c, Avahi (client and core), PCRE2, utf8proc, libyaml, libedit, libevent; a C11 compiler, make, pkg-config." >&2
    exit 69
fi

missing=
for p in $want; do
    case $(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null) in
    ii* | hi*) ;;
    *) missing="$missing $p" ;;
    esac
done
missing=${missing# }
if [ -z "$missing" ]; then
    [ -z "$check" ] || echo "nothing is missing"
    exit 0
fi
if [ -n "$check" ]; then echo "missing: $missing"; exit 1; fi

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: these packages are missing and only root can install them: $missing" >&2
        echo "Run as root: apt-get install $missing" >&2
        exit 77
    fi
    as_root=sudo
    echo "These packages are missing: $missing" >&2
    if [ -z "${ASSUME_YES:-}" ] && [ -t 0 ]; then
        printf 'Install them with sudo apt-get? [Y/n] ' >&2
        read -r answer
        case $answer in [nN]*) exit 75 ;; esac
    fi
fi
echo "install-deps.sh: installing $missing" >&2
export DEBIAN_FRONTEND=noninteractive
if [ -n "$foreign" ] && ! dpkg --print-foreign-architectures | grep -qx "$foreign"; then
    $as_root dpkg --add-architecture "$foreign"
    $as_root apt-get update -qq
fi
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
# Package lists may be missing (fresh images) or stale: try, refresh, try again. Daemons are not started: Cake's own
# tests start theirs where they need them, and a machine without Avahi running uses the embedded responder.
if ! apt install -y -qq --no-install-recommends $missing >/dev/null 2>&1; then
    apt update -qq
    apt install -y -qq --no-install-recommends $missing >/dev/null
fi

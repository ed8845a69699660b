#!/bin/sh
# Install or remove the built programs, man pages, completion, systemd units and the example topology.
#
#   PREFIX=/usr/local DESTDIR= deploy/install.sh [uninstall]
#
# Removing leaves what people made (/etc/cake, keys, caches) and the accounts of the services.
set -eu
cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
BINDIR=${BINDIR:-$PREFIX/bin}
MANDIR=${MANDIR:-$PREFIX/share/man}
SHAREDIR=${SHAREDIR:-$PREFIX/share/cake}
# Distributions' own files live in /usr/lib; a local install goes where systemd looks for those.
case $PREFIX in
/usr) UNITDIR=${UNITDIR:-/usr/lib/systemd/system} ;;
*) UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system} ;;
esac
SYSUSERSDIR=${SYSUSERSDIR:-$PREFIX/lib/sysusers.d}
COMPLETION=${COMPLETION:-$PREFIX/share/bash-completion/completions}
ZSHDIR=${ZSHDIR:-$PREFIX/share/zsh/site-functions}
case $PREFIX in /*) ;; *) echo "install.sh: PREFIX must be an absolute path, not '$PREFIX'" >&2; exit 2 ;; esac

put() { # mode file target
    install -D -m "$1" "$2" "$DESTDIR$3"
    echo "  $DESTDIR$3"
}
take() {
    [ ! -e "$DESTDIR$1" ] || { rm -f "$DESTDIR$1"; echo "  removed $DESTDIR$1"; }
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

pages=$(find deploy/man -name '*.[1-8]' 2>/dev/null || true)
# The master's unit runs `serve`; a build without that verb gets no unit that could only fail.
units=cake-worker.service
if build/cake-master help serve >/dev/null 2>&1; then units="$units cake-master.service"; fi
case ${1:-install} in
install)
    for p in cake-worker cake-master; do
        if [ ! -x build/$p ]; then echo "install.sh: build/$p is missing: run make first" >&2; exit 1; fi
        put 755 build/$p "$BINDIR/$p"
    done
    for m in $pages; do put 644 "$m" "$MANDIR/man${m##*.}/${m##*/}"; done
    for u in $units; do
        sed "s|@BINDIR@|$BINDIR|g" deploy/systemd/$u >"$tmp/$u"
        put 644 "$tmp/$u" "$UNITDIR/$u"
    done
    for shell in bash zsh; do
        build/cake-master completion $shell >"$tmp/$shell-cake-master"
        build/cake-worker --completion $shell >"$tmp/$shell-cake-worker"
    done
    for p in cake-worker cake-master; do
        put 644 "$tmp/bash-$p" "$COMPLETION/$p"
        put 644 "$tmp/zsh-$p" "$ZSHDIR/_$p"
    done
    put 644 deploy/topology.example.yml "$SHAREDIR/topology.example.yml"
    put 644 deploy/systemd/cake.env.example "$SHAREDIR/cake.env.example"
    put 644 LICENSE "$SHAREDIR/LICENSE"
    put 644 deploy/systemd/cake.sysusers "$SYSUSERSDIR/cake.conf"
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
        systemd-sysusers "$SYSUSERSDIR/cake.conf" || true
        systemctl daemon-reload || true
        echo "To start a worker with the machine: copy $SHAREDIR/cake.env.example to /etc/cake/worker.env (mode 0600),"
        echo "write the cluster key into it, then: systemctl enable --now cake-worker"
    fi
    ;;
uninstall)
    for p in cake-worker cake-master; do
        if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && [ -e "$UNITDIR/$p.service" ]; then
            systemctl disable --now $p.service || true
        fi
        take "$UNITDIR/$p.service"
        take "$BINDIR/$p"
        take "$COMPLETION/$p"
        take "$ZSHDIR/_$p"
    done
    for m in $pages; do take "$MANDIR/man${m##*.}/${m##*/}"; done
    take "$SHAREDIR/topology.example.yml"
    take "$SHAREDIR/cake.env.example"
    take "$SHAREDIR/LICENSE"
    take "$SYSUSERSDIR/cake.conf"
    rmdir "$DESTDIR$SHAREDIR" 2>/dev/null || true
    [ -n "$DESTDIR" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload || true
    ;;
*)
    echo "usage: install.sh [uninstall]" >&2
    exit 2
    ;;
esac

#!/bin/sh
# Installs, with apt-get, the programs that the lab uses and this machine lacks.
set -eu
need=""
want() { command -v "$1" >/dev/null 2>&1 || need="$need $2"; }
PATH=$PATH:/usr/sbin:/sbin
want haproxy haproxy
want nft nftables
want ip iproute2
want keepalived keepalived
want arping iputils-arping
want conntrack conntrack
want iptables iptables
want gcc gcc
[ -n "$need" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "missing:$need. Install these packages as root, then run make again." >&2
	exit 1
fi
echo "installing:$need"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Services of these packages must not start: the lab runs its own.
apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $need libc6-dev >/dev/null
for s in haproxy keepalived; do
	case " $need " in *" $s "*) ;; *) continue ;; esac
	if command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
		systemctl disable --now $s >/dev/null 2>&1 || true
	fi
done

#!/bin/sh
# Installs Mooring on a control-plane node from this bundle, without any network.
# Runs under any POSIX shell (dash, busybox); run it again after every new bundle.
set -eu

usage() {
	cat <<'EOT'
usage: install.sh --profile kubeadm|k0s|k3s [--vip IP[,IP]] [--interface NAME] [flags]

  --profile P       where this distribution keeps images and static pods
  --vip IPs         the API server's virtual IPs, for /etc/mooring/mooring.yaml
  --interface NAME  the interface that announces them; without it the one in the VIP's subnet
  --services        serve Services of type LoadBalancer, too
  --metrics-bind A  where metrics are served, ADDRESS:PORT; without it loopback
  --dry-run         say what would be done, and do nothing
  --uninstall       take it off this node; keeps /etc/mooring, /var/lib/mooring and credentials
  --purge           with --uninstall: these, too
  --root DIR        install into the file system of a node below DIR; its images are not loaded
  --manifests DIR   the kubelet's directory of static pods, if it is not the profile's
  --ctr CMD         the command that stands for ctr, if it is not the profile's

An existing /etc/mooring/mooring.yaml is kept; the static pods are made to fit it.
EOT
}

say() { printf '%s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
# act does something, or says that it would.
act() {
	if [ -n "$dry" ]; then say "would run: $*"; else "$@"; fi
}

profile= vip= interface= services= bind= dry= uninstall= purge= root= manifests= ctr=
while [ $# -gt 0 ]; do
	case $1 in
	--services) services=1 ;;
	--dry-run) dry=1 ;;
	--uninstall) uninstall=1 ;;
	--purge) purge=1 ;;
	-h | --help) usage; exit 0 ;;
	--profile | --vip | --interface | --metrics-bind | --root | --manifests | --ctr)
		[ $# -ge 2 ] && [ -n "$2" ] || die "$1 needs a value; see --help"
		case $1 in
		--profile) profile=$2 ;;
		--vip) vip=$2 ;;
		--interface) interface=$2 ;;
		--metrics-bind) bind=$2 ;;
		--root) root=${2%/} ;;
		--manifests) manifests=$2 ;;
		--ctr) ctr=$2 ;;
		esac
		shift
		;;
	*) usage >&2; die "what is $1 for?" ;;
	esac
	shift
done

# images is a directory whose archives the runtime loads at its start; sock says
# that it runs.
images=
case $profile in
kubeadm)
	: "${manifests:=/etc/kubernetes/manifests}" "${ctr:=ctr}"
	sock=/run/containerd/containerd.sock
	;;
k0s)
	: "${manifests:=/etc/kubernetes/manifests}" "${ctr:=k0s ctr}"
	sock=/run/k0s/containerd.sock images=/var/lib/k0s/images
	;;
k3s)
	: "${manifests:=/var/lib/rancher/k3s/agent/pod-manifests}" "${ctr:=k3s ctr}"
	sock=/run/k3s/containerd/containerd.sock images=/var/lib/rancher/k3s/agent/images
	;;
'') usage >&2; die "--profile is missing" ;;
*) die "--profile $profile: want kubeadm, k0s or k3s" ;;
esac
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall"
if [ -n "$uninstall" ] && [ -n "$vip$interface$services$bind" ]; then
	die "--uninstall takes no settings"
fi
case $manifests in /*) ;; *) die "--manifests $manifests: want an absolute path" ;; esac

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
cd "$here"
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || die "must be root (or --dry-run)"

config=$root/etc/mooring/mooring.yaml
binary=$root/usr/local/bin/mooring
archive=mooring.tar
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

# place puts a file where it belongs at once or not at all, with a name that the
# kubelet ignores meanwhile; one that is there already is left alone.
place() { # FILE TO MODE
	if [ -f "$2" ] && cmp -s "$1" "$2"; then
		say "unchanged: $2"
		return
	fi
	say "writing:   $2"
	[ -z "$dry" ] || return 0
	mkdir -p "$(dirname "$2")"
	new=$(dirname "$2")/.mooring.new.$$
	cp "$1" "$new" && chmod "$3" "$new" && mv -f "$new" "$2"
}

# runs says whether the container runtime can be asked.
runs() { [ -z "$root" ] && [ -S "${MOORING_SOCK:-$sock}" ]; }

# pods lists the static pods of this node: that of Services only where wanted.
pods() {
	for f in $(grep -l '^kind: Pod$' manifests/*.yaml); do
		case $f in *services*) [ -n "$services" ] || continue ;; esac
		basename "$f"
	done
}

# target is the name of a static pod's file on the node.
target() {
	case $1 in
	static-pod.yaml) say "$root$manifests/mooring.yaml" ;;
	*) say "$root$manifests/mooring-$1" ;;
	esac
}

uninstall() {
	for p in $(grep -l '^kind: Pod$' manifests/*.yaml); do
		f=$(target "$(basename "$p")")
		[ ! -f "$f" ] || { say "removing:  $f"; act rm -f "$f"; }
	done
	# The agent hands its addresses over and ends; its lock shows that it did.
	if [ -z "$root" ] && [ -z "$dry" ] && [ -S /run/mooring/agent.sock ]; then
		i=0
		while [ -x "$binary" ] && "$binary" status >/dev/null 2>&1; do
			i=$((i + 1))
			[ $i -lt 60 ] || die "the agent still runs after 60 s; has the kubelet seen that its pod is gone?"
			sleep 1
		done
	fi
	if [ -x "$binary" ] && [ -z "$root" ] && "$binary" --help | grep -q 'mooring cleanup'; then
		act "$binary" cleanup
	elif [ -z "$root" ] && command -v nft >/dev/null 2>&1; then
		# The rules of a HAProxy that is gone lead nowhere.
		nft list tables 2>/dev/null | while read -r word family table; do
			case $table in mooring-*) act nft delete "$word" "$family" "$table" ;; esac
		done
	fi
	if runs; then
		# shellcheck disable=SC2086
		act $ctr -n k8s.io images rm "$(cat image/name)" || say "the image was not removed"
	fi
	for f in "$binary" ${images:+"$root$images/$archive"}; do
		[ ! -f "$f" ] || { say "removing:  $f"; act rm -f "$f"; }
	done
	if [ -n "$purge" ]; then
		act rm -rf "$root/etc/mooring" "$root/var/lib/mooring" "$root/run/mooring" "$root/etc/kubernetes/mooring.conf"
	else
		say "kept: /etc/mooring, /var/lib/mooring, /etc/kubernetes/mooring.conf (--purge removes them)"
	fi
}

# A damaged or half-copied bundle must not reach the node.
sha256sum -c SHA256SUMS >/dev/null || die "this bundle is damaged or incomplete: copy it again"
machine=$(uname -m)
case $machine in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; esac
bin/mooring version >/dev/null 2>&1 || die "bin/mooring does not run here: is this the bundle for $machine?"

if [ -n "$uninstall" ]; then
	uninstall
	exit 0
fi

# 1. All that can be refused is, before anything is changed.
tmp=$(mktemp -d)
if [ -f "$config" ]; then
	say "keeping:   $config"
	[ -z "$vip$interface$bind" ] || say "           (--vip, --interface and --metrics-bind are not used; edit the file)"
	cp "$config" "$tmp/mooring.yaml"
else
	[ -n "$vip" ] || [ -n "$services" ] || die "--vip is missing, and there is no $config"
	bin/mooring manifest config ${vip:+--vip "$vip"} ${interface:+--interface "$interface"} ${services:+--services} \
		${bind:+--metrics-bind "$bind"} >"$tmp/mooring.yaml" || die "these settings are no configuration"
fi
bin/mooring config check "$tmp/mooring.yaml" >/dev/null || die "$config must be put right first"
if [ -z "$services" ] && grep -q '^services:.*enabled: true' "$tmp/mooring.yaml"; then services=1; fi
if [ -z "$root" ]; then
	if [ "$profile" = kubeadm ] && ! runs; then
		die "containerd does not run (no $sock): start it first"
	fi
	[ -z "$dry" ] && ! command -v "${ctr%% *}" >/dev/null 2>&1 && runs &&
		die "${ctr%% *} is not installed: name the command with --ctr"
	[ -z "$interface" ] || [ -d "/sys/class/net/$interface" ] || die "this node has no interface $interface"
fi
name=$(cat image/name)
for p in $(pods); do
	bin/mooring manifest "$p" --image "$name" --pull-policy Never --config "$tmp/mooring.yaml" >"$tmp/$p" ||
		die "$p cannot be made for $config"
done

# 2. The image before the pods, which are never pulled.
[ -z "$images" ] || place image/mooring.tar "$root$images/$archive" 0644
if runs; then
	say "loading:   $name"
	# shellcheck disable=SC2086
	act $ctr -n k8s.io images import image/mooring.tar
elif [ -z "$images" ]; then
	say "not loaded: $name (--root); on the node: $ctr -n k8s.io images import image/mooring.tar"
else
	say "$name is loaded when $profile starts"
fi

# 3. The rest; the pods come last.
place bin/mooring "$binary" 0755
[ -f "$config" ] || place "$tmp/mooring.yaml" "$config" 0600
for p in $(pods); do
	place "$tmp/$p" "$(target "$p")" 0600
done

say "
Still to do:"
[ -f "$root/etc/kubernetes/mooring.conf" ] ||
	say "  credentials, once the cluster has a CA:   mooring credentials --profile $profile"
say "  rights, once per cluster:                 mooring manifest all | kubectl apply -f -
  what is wrong, if anything:               mooring check
See docs/quickstart.md."

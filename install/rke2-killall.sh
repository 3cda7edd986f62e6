#!/bin/sh
# Ends all of rke2 on this host: the service, every pod, and what they left in the kernel
# (mounts, network namespaces, control groups, interfaces, routes, netfilter rules). Files stay: rke2 starts again
# where it was.
#
# Only what is rke2's is touched: processes whose program is in its data folder or that
# belong to its containers; mounts of its containers and of the kubelet's volumes; the
# network namespaces of its pods. Mounts of /etc/fstab are never let go of.
#
# Environment:
#   RKE2_DATA_DIR   the data folder; default: data-dir of /etc/rancher/rke2/config.yaml,
#                   else /var/lib/rancher/rke2
set -eu

say() { printf '%s\n' "$*"; }
warn() { printf 'rke2-killall: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

settings() {
  LC_ALL=C PATH="${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin"
  export LC_ALL PATH
  state=/run/k3s/containerd
  kubelet=/var/lib/kubelet
  data=$(data_dir)
  # Programs are known to the kernel by their real path.
  [ ! -d "$data" ] || data=$(CDPATH='' cd "$data" && pwd -P)
  rke2=$(CDPATH='' cd "$(dirname "$0")" && pwd -P)/rke2
}

# data_dir is where rke2 keeps its data: what its own configuration says.
data_dir() {
  dir=${RKE2_DATA_DIR:-}
  [ -n "$dir" ] || dir=$(cat /etc/rancher/rke2/config.yaml /etc/rancher/rke2/config.yaml.d/*.yaml 2>/dev/null |
    sed -n 's/^data-dir:[[:space:]]*//p' | tail -n 1 |
    sed -e 's/^"\([^"]*\)".*/\1/' -e t -e "s/^'\([^']*\)'.*/\1/" -e t -e 's/[[:space:]]*#.*//' -e 's/[[:space:]]*$//')
  printf '%s\n' "${dir:-/var/lib/rancher/rke2}"
}

# program PID: the path of its program.
program() {
  exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
  printf '%s\n' "${exe% (deleted)}"
}

# nodes: the processes of rke2 server and rke2 agent, not of its other commands.
nodes() {
  for proc in /proc/[0-9]*; do
    [ "$(program "${proc#/proc/}")" = "$rke2" ] || continue
    case $(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null) in
      *[/\ ]rke2\ server* | *[/\ ]rke2\ agent* | rke2\ server* | rke2\ agent*) printf '%s\n' "${proc#/proc/}" ;;
    esac
  done
}

# parent PID. A program's name may hold anything; what follows the last ) does not.
parent() {
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  stat=${stat##*) }
  stat=${stat#* }
  printf '%s\n' "${stat%% *}"
}

# members: processes of the data folder's programs, whatever descends from a shim, and
# what is in a container's cgroup although its shim is gone.
members() {
  : >"$work/members"
  : >"$work/shims"
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    exe=$(program "$pid") || continue
    case $exe in
      "$data"/data/*/bin/containerd-shim*) printf '%s\n' "$pid" >>"$work/shims" ;;
      "$data"/data/*/bin/*) printf '%s\n' "$pid" >>"$work/members" ;;
    esac
  done
  cat "$work/shims" >>"$work/members"
  if [ -s "$work/shims" ]; then
    for proc in /proc/[0-9]*; do
      up=${proc#/proc/}
      while up=$(parent "$up") && [ "$up" -gt 1 ]; do
        grep -qx "$up" "$work/shims" || continue
        printf '%s\n' "${proc#/proc/}" >>"$work/members"
        break
      done
    done
  fi
  if [ -s "$work/containers" ]; then
    grep -lFf "$work/containers" /proc/[0-9]*/cgroup 2>/dev/null | sed 's|^/proc/\([0-9]*\)/.*|\1|' >>"$work/members"
  fi
  # Whoever runs this script is no pod of rke2, even in a shell inside one.
  sort -un "$work/members" | grep -vx $$ || :
}

# remember notes what only the state of running containers tells: their ids, the network
# namespaces of pods, and the sockets of shims, which are among those of any other
# containerd's.
remember() {
  for task in "$state"/io.containerd.runtime.v2.task/k8s.io/*; do
    [ -d "$task" ] || continue
    # Processes are found by these: anything shorter could be in another's cgroup's name.
    id=${task##*/}
    case $id in *[!0-9a-f]*) continue ;; esac
    [ ${#id} -eq 64 ] || continue
    printf '%s\n' "$id" >>"$work/containers"
    grep -ho 'unix:///run/containerd/s/[0-9a-f]*' "$task/bootstrap.json" "$task/address" 2>/dev/null | sed 's|^unix://||' >>"$work/sockets" || :
    grep -o '"path": *"[^"]*/netns/[^"/]*"' "$task/config.json" 2>/dev/null | sed 's/.*"\(.*\)"/\1/' >>"$work/namespaces" || :
  done
  sort -u -o "$work/namespaces" "$work/namespaces"
}

stop_service() {
  if [ -d /run/systemd/system ] && have systemctl; then
    for unit in rke2-server rke2-agent; do
      systemctl --quiet is-active "$unit" || continue
      say "stopping $unit"
      systemctl stop "$unit" || warn "systemctl stop $unit failed"
    done
  fi
  # Without systemd, or started by hand. It ends its children itself, if it gets the time.
  for pid in $(nodes); do
    say "stopping rke2 (process $pid)"
    kill "$pid" 2>/dev/null || :
  done
  tries=40
  while [ -n "$(nodes)" ] && [ $tries -gt 0 ]; do
    sleep 1
    tries=$((tries - 1))
  done
  for pid in $(nodes); do
    warn "rke2 (process $pid) does not end: killing it"
    kill -9 "$pid" 2>/dev/null || :
  done
}

kill_members() {
  tries=10
  while found=$(members) && [ -n "$found" ] && [ $tries -gt 0 ]; do
    for pid in $found; do kill -9 "$pid" 2>/dev/null || :; done
    say "killed $(printf '%s\n' "$found" | wc -l | tr -d ' ') processes of pods and of containerd"
    sleep 1
    tries=$((tries - 1))
  done
  for pid in $(members); do
    warn "process $pid ($(program "$pid")) does not end: it may wait for a disk or a network file system"
    failed=yes
  done
}

# mounts: every mount point, the last one first, as the kernel writes it (\040 is a space).
mounts() { cut -d ' ' -f 5 /proc/self/mountinfo | sed '1!G;h;$!d'; }

# plain undoes the kernel's escapes.
plain() {
  case $1 in
    *\\*) printf '%b\n' "$(printf '%s\n' "$1" | sed 's/\\134/\\\\/g')" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

# in_fstab POINT, in the kernel's form, which is fstab's too.
in_fstab() {
  [ -r /etc/fstab ] || return 1
  while read -r _ entry _; do
    [ "$entry" != "$1" ] || return 0
  done </etc/fstab
  return 1
}

# ours POINT: made by containerd for a container, or by the kubelet for a pod's volume.
ours() {
  case $1 in
    "$state"/?*) ;;
    "$data"/agent/containerd/tmpmounts/?*) ;;
    "$data"/agent/containerd/io.containerd.snapshotter.v1.*/snapshots/?*) ;;
    "$kubelet"/pods/?* | "$kubelet"/plugins/?*) ;;
    *) return 1 ;;
  esac
}

unmount_all() {
  mounts >"$work/mounts"
  let_go=0
  while read -r raw; do
    point=$(plain "$raw")
    ours "$point" || continue
    if in_fstab "$raw"; then
      warn "$point is in /etc/fstab: left as it is"
      continue
    fi
    umount "$point" 2>/dev/null || umount -l "$point" 2>"$work/why" || {
      warn "$point cannot be unmounted: $(cat "$work/why")"
      failed=yes
      continue
    }
    let_go=$((let_go + 1))
  done <"$work/mounts"
  [ $let_go -eq 0 ] || say "unmounted $let_go file systems of pods"
}

remove_namespaces() {
  while read -r path; do
    name=${path##*/}
    for place in /run/netns /var/run/netns; do
      [ -e "$place/$name" ] || continue
      umount "$place/$name" 2>/dev/null || :
      rm -f "$place/$name" 2>/dev/null || warn "the network namespace $place/$name cannot be removed"
    done
  done <"$work/namespaces"
  [ ! -s "$work/namespaces" ] || say "removed $(wc -l <"$work/namespaces" | tr -d ' ') network namespaces of pods"
}

# remove_state: what shims and runc leave in memory when they are killed.
remove_state() {
  while read -r id; do rm -rf "/run/containerd/runc/k8s.io/$id"; done <"$work/containers"
  while read -r socket; do rm -f "$socket"; done <"$work/sockets"
}

# remove_cgroups: the kubelet's, which are empty now. The next kubelet would take some
# seconds for each, looking for the container that it is of. One with processes is kept by
# the kernel.
remove_cgroups() {
  removed=0
  # Where systemd made them for the kubelet, it has a unit for each, and takes them away.
  if [ -d /run/systemd/system ] && have systemctl && systemctl --quiet is-active kubepods.slice; then
    if systemctl stop kubepods.slice; then
      say "stopped kubepods.slice"
    else
      warn "systemctl stop kubepods.slice failed"
    fi
  fi
  for dir in /sys/fs/cgroup/kubepods /sys/fs/cgroup/kubepods.slice /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/*/kubepods.slice; do
    [ ! -d "$dir" ] || remove_cgroup "$dir"
  done
  [ $removed -eq 0 ] || say "removed $removed control groups of pods"
}

# remove_cgroup DIR, and before it what is in it. There may be no find on this host.
remove_cgroup() {
  for dir in "$1"/*/; do
    [ ! -d "$dir" ] || remove_cgroup "${dir%/}"
  done
  ! rmdir "$1" 2>/dev/null || removed=$((removed + 1))
}

# another_node: a Kubernetes of somebody else's, which has interfaces and rules of the
# same names.
another_node() {
  for proc in /proc/[0-9]*; do
    exe=$(program "${proc#/proc/}") || continue
    case ${exe##*/} in
      kubelet | k3s | k0s | microk8s* | kube-proxy) printf '%s\n' "process ${proc#/proc/}, $exe" && return 0 ;;
    esac
  done
  return 1
}

# without_ports BRIDGE: the kernel takes a moment to remove what a namespace held.
without_ports() {
  for _ in 1 2 3 4 5; do
    [ -n "$(ls "$1/brif" 2>/dev/null)" ] || return 0
    sleep 1
  done
  return 1
}

remove_interfaces() {
  for path in /sys/class/net/*; do
    link=${path##*/}
    case $link in
      # A bridge that somebody else's containers hang on is not ours alone.
      cni0)
        if ! without_ports "$path"; then
          warn "$link still has ports: left as it is"
          continue
        fi
        ;;
      flannel.1 | flannel-v6.1 | flannel-wg | flannel-wg-v6 | vxlan.calico | vxlan-v6.calico) ;;
      wireguard.cali | wg-v6.cali | cali[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]) ;;
      cilium_host | cilium_net | cilium_vxlan | kube-ipvs0 | nodelocaldns) ;;
      *) continue ;;
    esac
    if ! have ip; then
      warn "the interface $link stays: this host has no ip command to remove it with"
      failed=yes
    elif ip link delete "$link" 2>/dev/null; then
      say "removed interface $link"
    fi
  done
}

# remove_routes takes the routes out by which packets to pods end here (the node marks its
# own), and those that send this node's pods nowhere, which canal makes and another network
# could not be under: of exactly the subnet that was this node's.
remove_routes() {
  if have ip; then
    for family in -4 -6; do
      [ -z "$(ip "$family" route show proto 82 2>/dev/null)" ] || ip "$family" route flush proto 82 2>/dev/null || :
    done
  fi
  lease=/run/flannel/subnet.env
  if [ ! -r $lease ] || ! have ip; then return; fi
  while IFS='=' read -r name subnet; do
    case $name in
      FLANNEL_SUBNET) family=-4 ;;
      FLANNEL_IPV6_SUBNET) family=-6 ;;
      *) continue ;;
    esac
    ip "$family" route show type blackhole match "${subnet%/*}" 2>/dev/null | while read -r _ route _; do
      [ "${route##*/}" = "${subnet##*/}" ] || continue
      ip "$family" route delete blackhole "$route" 2>/dev/null && say "removed the route of $route to nowhere"
    done || :
  done <$lease
}

# remove_rules takes the chains of Kubernetes and its networks out, and the rules that
# jump to them; every other rule stays where it is, with its counters.
remove_rules() {
  for tool in iptables ip6tables; do
    if ! have $tool-save || ! have $tool-restore; then continue; fi
    $tool-save 2>/dev/null | sed -n \
      -e '/^\*/p' -e '/^COMMIT/p' \
      -e 's/^:\(\(KUBE\|CNI\|cali\|FLANNEL\)-[^ ]*\) .*/-F \1/p' \
      -e '/^-A \(KUBE\|CNI\|cali\|FLANNEL\)-/d' \
      -e '/ -[jg] \(KUBE\|CNI\|cali\|FLANNEL\)-/s/^-A/-D/p' >"$work/rules"
    grep -q '^-' "$work/rules" || continue
    # Chains can be deleted when nothing jumps to them any more: at the end of each table.
    : >"$work/restore"
    : >"$work/chains"
    while read -r line; do
      case $line in
        -F*) printf '%s\n' "-X ${line#-F }" >>"$work/chains" ;;
        COMMIT)
          cat "$work/chains" >>"$work/restore"
          : >"$work/chains"
          ;;
      esac
      printf '%s\n' "$line" >>"$work/restore"
    done <"$work/rules"
    if $tool-restore --noflush <"$work/restore" 2>"$work/why"; then
      say "removed Kubernetes' rules from $tool"
    else
      warn "$tool's rules of Kubernetes stay: $(head -n 1 "$work/why")"
      failed=yes
    fi
  done
}

main() {
  case ${1:-} in
    '') ;;
    --help | -h)
      sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
      exit
      ;;
    *)
      warn "what is $1? Run $0 --help"
      exit 2
      ;;
  esac
  settings
  if [ "$(id -u)" != 0 ]; then
    warn "it needs root: run it again with sudo"
    exit 1
  fi
  failed=
  work=$(mktemp -d "${TMPDIR:-/tmp}/rke2-killall.XXXXXX") || {
    warn "no temporary folder can be made in ${TMPDIR:-/tmp}: set TMPDIR to a folder that can be written to"
    exit 1
  }
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  : >"$work/containers"
  : >"$work/namespaces"
  : >"$work/sockets"
  remember
  stop_service
  kill_members
  unmount_all
  remove_namespaces
  [ -n "$failed" ] || remove_state
  if other=$(another_node); then
    warn "another Kubernetes runs here ($other): control groups, network interfaces and rules are left as they are"
  else
    remove_cgroups
    remove_interfaces
    remove_routes
    remove_rules
  fi
  if [ -n "$failed" ]; then
    warn "not everything is gone: see above, then run this again"
    exit 1
  fi
  say "rke2 is stopped; its files are in $data"
}

main "$@"

#!/bin/sh
# Removes rke2 from this host: everything that runs (rke2-killall.sh), then what was
# installed, its data, its configuration and its logs.
#
# Nothing is deleted on a file system that is mounted below a folder of rke2's: it is named
# and left. A folder of rke2's that is a mount itself, or that a link leads to, is emptied.
# CNI plugins and network configuration that an operator brought stay.
#
# Options:
#   --dry-run   say what would be removed, and touch nothing
#   --help      this text
#
# Environment:
#   RKE2_DATA_DIR   the data folder; default: data-dir of /etc/rancher/rke2/config.yaml,
#                   else /var/lib/rancher/rke2
set -eu

say() { printf '%s\n' "$*"; }
warn() { printf 'rke2-uninstall: %s\n' "$*" >&2; }

# fail WHAT TODO
fail() {
  printf 'rke2-uninstall: %s\n  to do: %s\n' "$1" "$2" >&2
  exit 1
}

settings() {
  LC_ALL=C PATH="${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin"
  export LC_ALL PATH
  newline='
'
  bin=$(CDPATH='' cd "$(dirname "$0")" && pwd -P)
  prefix=${bin%/bin}
  manifest=$prefix/share/rke2/installed
  data=$(data_dir)
  case $data in
    *"$newline"*) fail "the data folder has a line break in its name" "remove it by hand" ;;
    /*) ;;
    *) fail "the data folder $data is not an absolute path" "set RKE2_DATA_DIR, or data-dir in /etc/rancher/rke2/config.yaml, to the one that rke2 ran with" ;;
  esac
}

# data_dir is where rke2 keeps its data: what its own configuration says.
data_dir() {
  dir=${RKE2_DATA_DIR:-}
  [ -n "$dir" ] || dir=$(cat /etc/rancher/rke2/config.yaml /etc/rancher/rke2/config.yaml.d/*.yaml 2>/dev/null |
    sed -n 's/^data-dir:[[:space:]]*//p' | tail -n 1 |
    sed -e 's/^"\([^"]*\)".*/\1/' -e t -e "s/^'\([^']*\)'.*/\1/" -e t -e 's/[[:space:]]*#.*//' -e 's/[[:space:]]*$//')
  printf '%s\n' "${dir:-/var/lib/rancher/rke2}"
}

# at_mounts WHAT PATH: are there mounts at (or below) a path? A bind mount is one too,
# although it has the same device. The kernel writes a space as \040.
at_mounts() {
  cut -d ' ' -f 5 /proc/self/mountinfo >"$work/mounts"
  while read -r raw; do
    point=$raw
    case $raw in *\\*) point=$(printf '%b\n' "$(printf '%s\n' "$raw" | sed 's/\\134/\\\\/g')") ;; esac
    case $1$point in
      "at$2") return 0 ;;
      "below$2"/?*) return 0 ;;
    esac
  done <"$work/mounts"
  return 1
}

# remove PATH: a file or a tree, but for what is mounted in it.
remove() (
  if [ -h "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; then
    if at_mounts at "$1"; then leave "$1"; else delete "$1"; fi
    exit
  fi
  [ -d "$1" ] || exit 0
  if at_mounts at "$1"; then
    leave "$1"
  elif at_mounts below "$1"; then
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
      if [ -e "$entry" ] || [ -h "$entry" ]; then remove "$entry"; fi
    done
    [ -n "$dry" ] || rmdir "$1" 2>/dev/null || :
  else
    delete "$1"
  fi
)

delete() {
  if [ -n "$dry" ]; then
    say "would remove $1"
    return
  fi
  rm -rf "$1" 2>"$work/why" || {
    warn "$1 cannot be removed: $(head -n 1 "$work/why")"
    : >"$work/failed"
    return
  }
  say "removed $1"
}

leave() {
  warn "left $1: it is a mount; unmount it and see what is in it yourself"
  : >"$work/left"
}

# remove_if_empty FOLDER…
remove_if_empty() {
  for folder; do
    [ -n "$dry" ] || [ ! -d "$folder" ] || [ -h "$folder" ] || rmdir "$folder" 2>/dev/null || :
  done
}

remove_service() {
  systemd=
  if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then systemd=yes; fi
  for unit in rke2-server rke2-agent; do
    if [ -n "$systemd" ] && [ -z "$dry" ]; then systemctl --quiet disable "$unit" 2>/dev/null || :; fi
    if [ -h "/etc/systemd/system/multi-user.target.wants/$unit.service" ]; then
      remove "/etc/systemd/system/multi-user.target.wants/$unit.service"
    fi
    # A unit elsewhere, if it is of this installation.
    if grep -qs "^ExecStart=$bin/rke2 " "/etc/systemd/system/$unit.service"; then remove "/etc/systemd/system/$unit.service"; fi
  done
}

# remove_data: what rke2 makes in its data folder, by name; the folder, if that was all.
# So a data folder that is shared with something else loses nothing of it.
remove_data() {
  link=
  if [ -h "$data" ]; then link=$data; fi
  [ -d "$data" ] || return 0
  real=$(CDPATH='' cd "$data" && pwd -P)
  for name in agent bin data server; do remove "$real/$name"; done
  remove_if_empty "$real"
  if [ -d "$real" ] && [ -z "$dry" ] && [ -n "$(ls -A "$real")" ]; then warn "left $real: it holds files that are not rke2's"; fi
  if [ -n "$link" ]; then remove "$link"; fi
}

# another_node: a Kubernetes of somebody else's, whose kubelet's files are in the same places.
another_node() {
  for proc in /proc/[0-9]*; do
    exe=$(readlink "$proc/exe" 2>/dev/null) || continue
    case ${exe##*/} in
      kubelet | k3s | k0s | microk8s*) printf '%s\n' "process ${proc#/proc/}, $exe" && return 0 ;;
    esac
  done
  return 1
}

remove_kubelet() {
  if [ -z "$dry" ] && other=$(another_node); then
    warn "another Kubernetes runs here ($other): left /var/lib/kubelet, /var/log/pods, /run/k3s, /var/lib/cni and /etc/rancher/node"
    return
  fi
  for path in /var/lib/kubelet /var/log/pods /var/log/containers /run/k3s; do
    if at_mounts at "$path"; then
      for entry in "$path"/* "$path"/.[!.]* "$path"/..?*; do
        if [ -e "$entry" ] || [ -h "$entry" ]; then remove "$entry"; fi
      done
    else
      remove "$path"
    fi
  done
  # The node's password, which K3s has in the same place.
  [ -d /etc/rancher/k3s ] || remove /etc/rancher/node
  remove_addresses
  # containerd's, if no other one listens there.
  if [ -S /run/nri/nri.sock ] && ! grep -q '/run/nri/nri\.sock$' /proc/net/unix; then remove /run/nri/nri.sock; fi
  remove_if_empty /run/nri /run/netns /run/containerd/runc/k8s.io /run/containerd/runc /run/containerd/s /run/containerd \
    /usr/libexec/kubernetes/kubelet-plugins/volume/exec /usr/libexec/kubernetes/kubelet-plugins/volume \
    /usr/libexec/kubernetes/kubelet-plugins /usr/libexec/kubernetes
}

# remove_addresses: what CNI plugins remember of pods. A network that has an address left
# is somebody else's.
remove_addresses() {
  for network in /var/lib/cni/networks/*; do
    [ -d "$network" ] || continue
    taken=
    for address in "$network"/*; do
      case ${address##*/} in
        lock | last_reserved_ip.*) ;;
        *)
          [ -f "$address" ] || continue
          read -r container _ <"$address" || :
          container=$(printf '%s' "${container:-}" | tr -d '\r')
          if [ -n "$container" ] && grep -Fqsx "$container" "$work/sandboxes"; then remove "$address"; else taken=yes; fi
          ;;
      esac
    done
    [ -n "$taken" ] || remove "$network"
  done
  if [ -s "$work/sandboxes" ]; then
    for result in /var/lib/cni/results/*; do
      if [ -f "$result" ] && printf '%s\n' "$result" | grep -qFf "$work/sandboxes"; then remove "$result"; fi
    done
  fi
  remove_if_empty /var/lib/cni/networks /var/lib/cni/results /var/lib/cni
}

# remember_sandboxes notes the pods' ids before their files go.
remember_sandboxes() {
  : >"$work/sandboxes"
  for sandbox in "$data"/agent/containerd/io.containerd.grpc.v1.cri/sandboxes/*; do
    id=${sandbox##*/}
    case $id in *[!0-9a-f]*) continue ;; esac
    [ ${#id} -ne 64 ] || printf '%s\n' "$id" >>"$work/sandboxes"
  done
}

# remove_installed: the binary and this script last, so that what fails can be run again.
remove_installed() {
  if [ -f "$manifest" ]; then
    while read -r file; do
      case $file in
        */rke2-images*.linux-* | "$prefix"/* | /etc/systemd/system/rke2-*.service) ;;
        *) continue ;;
      esac
      case $file in
        "$bin"/*) ;;
        *) remove "$file" ;;
      esac
    done <"$manifest"
  fi
  for unit in rke2-server rke2-agent; do
    for ending in service env; do remove "$prefix/lib/systemd/system/$unit.$ending"; done
  done
  remove "$prefix/share/rke2"
  if [ -n "$systemd" ] && [ -z "$dry" ]; then systemctl daemon-reload || warn "systemctl daemon-reload failed"; fi
  [ ! -e "$work/failed" ] || fail "not everything could be removed: see above" "mend it and run $0 again"
  for file in rke2 rke2-killall.sh rke2-uninstall.sh; do remove "$bin/$file"; done
  # Folders that systems have empty are theirs.
  remove_if_empty "$prefix/lib/systemd/system" "$prefix/lib/systemd"
  case $prefix in
    /usr | /usr/local) ;;
    *) remove_if_empty "$prefix/bin" "$prefix/lib" "$prefix/share" "$prefix" ;;
  esac
}

main() {
  dry=
  case ${1:-} in
    '') ;;
    --dry-run) dry=yes ;;
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
  [ "$(id -u)" = 0 ] || fail "it needs root" "run it again with sudo"
  work=$(mktemp -d "${TMPDIR:-/tmp}/rke2-uninstall.XXXXXX") || fail "no temporary folder can be made in ${TMPDIR:-/tmp}" "set TMPDIR to a folder that can be written to"
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [ -z "$dry" ]; then
    "$bin/rke2-killall.sh" || fail "rke2-killall.sh failed: nothing was removed" "do what it says above, then run $0 again"
  fi
  remember_sandboxes
  remove_service
  remove_data
  remove_kubelet
  remove /etc/rancher/rke2
  remove_if_empty /etc/rancher
  remove_installed
  case $data in /var/lib/rancher/rke2) remove_if_empty /var/lib/rancher ;; esac
  [ -z "$dry" ] || exit 0
  if [ -e "$work/left" ]; then
    say "rke2 is uninstalled but for what was left, see above"
  else
    say "rke2 is uninstalled"
  fi
}

main "$@"
exit

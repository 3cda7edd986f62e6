#!/bin/sh
# Installs rke2 from a folder of release artifacts. It needs no network, and nothing but
# what a minimal Linux host has: a POSIX shell, coreutils (or busybox), tar, gzip, openssl.
#
#   INSTALL_RKE2_ARTIFACT_PATH=/media/usb /media/usb/install.sh
#
# First the signature of sha256sum-ARCH.txt is verified, then the sum of every file that
# will be copied; only then is anything copied. Files appear whole, all of them or none.
# To run it again changes nothing; with newer artifacts it upgrades in place.
#
# Options:
#   --verify   verify the artifacts and copy nothing (needs no root)
#   --help     this text
#
# Environment:
#   INSTALL_RKE2_ARTIFACT_PATH     folder with the artifacts; default: where this script is
#   INSTALL_RKE2_PUBLIC_KEY        file with the public key (PEM) that the list of sums must be
#                                  signed with; default: the key that this script was released with
#   INSTALL_RKE2_SUMS_SHA256       SHA-256 of sha256sum-ARCH.txt, if you verified the list elsewhere
#                                  and this host has neither openssl nor cosign
#   INSTALL_RKE2_TYPE              server (default) or agent: which service is named at the end
#   INSTALL_RKE2_EXEC              the same, if INSTALL_RKE2_TYPE is not set
#   INSTALL_RKE2_TAR_PREFIX        where to install; default /usr/local, or /opt/rke2 if that is
#                                  read-only or a mount of its own, or where rke2 is already
#   INSTALL_RKE2_AGENT_IMAGES_DIR  where image archives go; default agent/images in the data folder
#   INSTALL_RKE2_VERSION           refuse artifacts of any other version, such as v1.30.0+rke2r3
#   RKE2_DATA_DIR                  the data folder; default: data-dir of /etc/rancher/rke2/config.yaml,
#                                  else /var/lib/rancher/rke2
set -eu

# The release's public key. It is written here when the release is laid out.
release_key=''

say() { printf '%s\n' "$*"; }
warn() { printf 'rke2 install: %s\n' "$*" >&2; }

# fail WHAT TODO…
fail() {
  printf 'rke2 install: %s\n' "$1" >&2
  shift
  for line; do printf '  to do: %s\n' "$line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# usage is the comment at the head of this file.
usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; }

settings() {
  LC_ALL=C PATH="${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin"
  export LC_ALL PATH
  umask 022
  tab=$(printf '\t')
  newline='
'
  artifacts=${INSTALL_RKE2_ARTIFACT_PATH:-$(dirname "$0")}
  [ -d "$artifacts" ] || fail "the artifacts' folder $artifacts does not exist" \
    "set INSTALL_RKE2_ARTIFACT_PATH to the folder that the release was copied to"
  artifacts=$(CDPATH='' cd "$artifacts" && pwd -P)
  kind=${INSTALL_RKE2_TYPE:-${INSTALL_RKE2_EXEC:-server}}
  case $kind in
    server | agent) ;;
    *) fail "INSTALL_RKE2_TYPE is $kind" "set it to server or agent" ;;
  esac
  case ${INSTALL_RKE2_METHOD:-tar} in
    tar) ;;
    *) fail "INSTALL_RKE2_METHOD is $INSTALL_RKE2_METHOD, and only tar installs without a network" "leave it unset" ;;
  esac
  machine=$(uname -m)
  case $machine in
    x86_64 | amd64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) fail "this host's architecture is $machine, and there are releases for x86_64 and aarch64 only" \
      "install on another host" ;;
  esac
  list=sha256sum-$arch.txt
  tarball=rke2.linux-$arch.tar.gz
  images=${INSTALL_RKE2_AGENT_IMAGES_DIR:-$(data_dir)/agent/images}
  case $images in
    *"$tab"* | *"$newline"*) fail "the images' folder has a tab or a line break in its name" "choose another with INSTALL_RKE2_AGENT_IMAGES_DIR" ;;
    /*) ;;
    *) fail "the images' folder $images is not an absolute path" "set INSTALL_RKE2_AGENT_IMAGES_DIR to one that begins with /" ;;
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

# choose_prefix: what was asked for, else where rke2 is, else /usr/local, else /opt/rke2.
choose_prefix() {
  installed=
  for unit in /etc/systemd/system/rke2-server.service /etc/systemd/system/rke2-agent.service \
    /usr/local/lib/systemd/system/rke2-server.service; do
    [ -f "$unit" ] || continue
    installed=$(sed -n 's|^ExecStart=\(/.*\)/bin/rke2 .*|\1|p' "$unit" | head -n 1)
    [ -z "$installed" ] || break
  done
  prefix=${INSTALL_RKE2_TAR_PREFIX:-}
  if [ -n "$prefix" ]; then
    [ "$prefix" = / ] || prefix=${prefix%/}
    case $prefix in
      / | [!/]* | *[!A-Za-z0-9/._@+-]*) fail "INSTALL_RKE2_TAR_PREFIX is $prefix: systemd's units cannot name it" \
        "choose an absolute path of letters, digits and ._@+-, such as /opt/rke2" ;;
    esac
    [ -z "$installed" ] || [ "$installed" = "$prefix" ] || fail "rke2 is installed in $installed ($unit), and INSTALL_RKE2_TAR_PREFIX is $prefix" \
      "leave INSTALL_RKE2_TAR_PREFIX unset to upgrade it there" "or remove it with $installed/bin/rke2-uninstall.sh first"
  elif [ -n "$installed" ]; then
    prefix=$installed
  elif is_mount /usr/local || ! writable /usr/local; then
    prefix=/opt/rke2
    say "/usr/local is read-only or a mount of its own: installing to $prefix"
  else
    prefix=/usr/local
  fi
  # Where systemd looks for units.
  case $prefix in
    /usr | /usr/local) units=$prefix/lib/systemd/system ;;
    *) units=/etc/systemd/system ;;
  esac
  writable "$prefix" || fail "$prefix cannot be written to" "choose another folder with INSTALL_RKE2_TAR_PREFIX"
  writable "$units" || fail "$units cannot be written to, and systemd's units belong there" "make it writable"
  writable "$images" || fail "the images' folder $images cannot be written to" \
    "make it writable, or choose another with INSTALL_RKE2_AGENT_IMAGES_DIR"
}

# existing FOLDER: itself, or the nearest folder above that is there.
existing() {
  at=$1
  while [ ! -d "$at" ]; do at=$(dirname "$at"); done
  printf '%s\n' "$at"
}

is_mount() {
  [ -r /proc/self/mountinfo ] || return 1
  while read -r _ _ _ _ point _; do
    [ "$point" != "$1" ] || return 0
  done </proc/self/mountinfo
  return 1
}

# writable tries: permission bits say nothing about a read-only file system.
writable() {
  try=$(existing "$1")/.rke2-install-try
  (: >"$try") 2>/dev/null && rm -f "$try"
}

sha256() {
  if have sha256sum; then
    sum=$(sha256sum <"$1") && printf '%s\n' "${sum%% *}"
  else
    sum=$(openssl dgst -sha256 -r <"$1") && printf '%s\n' "${sum%% *}"
  fi
}

# verify_list takes copies of the list and its signature, so that what is verified is
# what is read later.
verify_list() {
  if [ ! -f "$artifacts/$list" ]; then
    for other in "$artifacts"/sha256sum-*.txt; do
      [ -f "$other" ] || continue
      other=${other##*/sha256sum-}
      fail "this host is $arch, and $artifacts has artifacts for ${other%.txt}" "copy the release's linux-$arch artifacts there"
    done
    fail "$artifacts has no $list: what is there cannot be verified" "copy $list and $list.sig of the release there"
  fi
  cp "$artifacts/$list" "$work/list" || fail "$artifacts/$list cannot be read" "copy it again from where it came from"
  sums_digest=$(sha256 "$work/list")
  if [ -n "${INSTALL_RKE2_SUMS_SHA256:-}" ]; then
    [ "$sums_digest" = "$INSTALL_RKE2_SUMS_SHA256" ] || fail "$list is not the one that you verified: its SHA-256 is $sums_digest, and INSTALL_RKE2_SUMS_SHA256 is $INSTALL_RKE2_SUMS_SHA256" \
      "copy the release's $list again"
    say "verified   $list: it is the one of INSTALL_RKE2_SUMS_SHA256"
  else
    verify_signature
  fi
  if grep -Evq '^[0-9a-f]{64} [ *][^/]+$' "$work/list"; then
    fail "$list has a line that is not a sum and a file name" "copy the release's $list again"
  fi
  twice=$(cut -c 67- "$work/list" | sort | uniq -d | head -n 1)
  [ -z "$twice" ] || fail "$list has two sums of $twice" "copy the release's $list again"
}

verify_signature() {
  [ -f "$artifacts/$list.sig" ] || fail "$list is not signed: $artifacts has no $list.sig" "copy the release's $list.sig there"
  cp "$artifacts/$list.sig" "$work/sig" || fail "$artifacts/$list.sig cannot be read" "copy it again from where it came from"
  if [ -n "${INSTALL_RKE2_PUBLIC_KEY:-}" ]; then
    [ -f "$INSTALL_RKE2_PUBLIC_KEY" ] || fail "the key file $INSTALL_RKE2_PUBLIC_KEY does not exist" "set INSTALL_RKE2_PUBLIC_KEY to the release's public key"
    cp "$INSTALL_RKE2_PUBLIC_KEY" "$work/key" || fail "the key file $INSTALL_RKE2_PUBLIC_KEY cannot be read" "run this as a user who may read it"
    key=$INSTALL_RKE2_PUBLIC_KEY
  else
    [ -n "$release_key" ] || fail "this install.sh is not of a release: it holds no key to verify $list with" \
      "set INSTALL_RKE2_PUBLIC_KEY to the file of the release's public key"
    printf '%s\n' "$release_key" >"$work/key"
    key="the key in $0"
  fi
  if have openssl; then
    openssl pkey -pubin -in "$work/key" -noout 2>/dev/null || fail "$key is not a public key in PEM form" \
      "set INSTALL_RKE2_PUBLIC_KEY to the release's cosign.pub"
    openssl base64 -d -A -in "$work/sig" -out "$work/sig.der" 2>/dev/null || : >"$work/sig.der"
    openssl dgst -sha256 -verify "$work/key" -signature "$work/sig.der" "$work/list" >/dev/null 2>&1 && good=yes || good=no
  elif have cosign; then
    cosign verify-blob --key "$work/key" --signature "$work/sig" --private-infrastructure=true "$work/list" >/dev/null 2>&1 && good=yes || good=no
  else
    fail "this host has neither openssl nor cosign, so the signature of $list cannot be verified" \
      "install openssl from this system's media" \
      "or verify $list on another machine and set INSTALL_RKE2_SUMS_SHA256 to its SHA-256"
  fi
  [ "$good" = yes ] || fail "$list is not signed by $key: it was changed, or signed by another key" \
    "copy $list and $list.sig of the release again, or set INSTALL_RKE2_PUBLIC_KEY to the key of who released it; install nothing of $artifacts until it verifies"
  say "verified   $list: signed by $key"
}

# listed NAME: its sum in the signed list; nothing if it is not there.
listed() {
  while read -r sum file; do
    [ "${file#\*}" != "$1" ] || printf '%s\n' "$sum"
  done <"$work/list"
}

verify_file() {
  want=$(listed "$1")
  [ -n "$want" ] || fail "$1 is in $artifacts and not in the signed $list" \
    "remove it from there, or copy the $list of the release that it belongs to"
  got=$(sha256 "$artifacts/$1") || fail "$artifacts/$1 cannot be read" "copy it again from where it came from"
  [ "$got" = "$want" ] || fail "$1 was changed or damaged: its SHA-256 is $got, and the signed list says $want" \
    "copy it again from where it came from"
  say "verified   $1"
}

# The endings of archives that a node reads; an archive that can be sought in is best.
endings='tar tar.zst tzst tar.gz tgz tar.lz4 tar.bz2 tbz tar.xz txz'

# choose_archives writes the names of the image archives to install, one for each set.
choose_archives() {
  : >"$work/archives"
  : >"$work/whole"
  for file in "$artifacts"/rke2-images*.linux-"$arch".*; do
    [ -f "$file" ] || continue
    name=${file##*/}
    set=${name%.linux-"$arch".*}
    for ending in $endings; do
      [ "$name" = "${name%".$ending"}" ] || break
      ending=
    done
    [ -n "$ending" ] || continue
    # The same set in a better form?
    if [ "$name" = "$set.linux-$arch.$ending" ]; then
      for better in $endings; do
        [ "$better" != "$ending" ] || break
        [ ! -f "$artifacts/$set.linux-$arch.$better" ] || continue 2
      done
      printf '%s\n' "$set.linux-$arch" >>"$work/whole"
    fi
    printf '%s\n' "$name" >>"$work/archives"
  done
  [ -s "$work/archives" ] || fail "$artifacts has no image archives for $arch (rke2-images-*.linux-$arch.tar)" \
    "copy at least rke2-images-core.linux-$arch.tar of the release there"
  drop_base
}

# drop_base leaves rke2-images.linux-ARCH out if the other sets have every image of it.
drop_base() {
  base=$(grep "^rke2-images\.linux-" "$work/archives") || return 0
  [ -f "$artifacts/rke2-images.linux-$arch.txt" ] || return 0
  : >"$work/others"
  while read -r whole; do
    if [ "$whole" = "rke2-images.linux-$arch" ] || [ ! -f "$artifacts/$whole.txt" ]; then continue; fi
    verify_file "$whole.txt" >/dev/null
    cat "$artifacts/$whole.txt" >>"$work/others"
  done <"$work/whole"
  verify_file "rke2-images.linux-$arch.txt" >/dev/null
  while read -r image; do
    grep -Fqx -e "$image" "$work/others" || return 0
  done <"$artifacts/rke2-images.linux-$arch.txt"
  grep -Fvx -e "$base" "$work/archives" >"$work/kept"
  mv "$work/kept" "$work/archives"
  say "left out   $base: the other sets have all of its images"
}

verify_all() {
  verify_list
  [ -f "$artifacts/$tarball" ] || fail "$artifacts has no $tarball" "copy the release's $tarball there"
  choose_archives
  verify_file "$tarball"
  while read -r name; do verify_file "$name"; done <"$work/archives"
}

size_of() { stat -c %s "$1"; }

# free_kb FOLDER: what is free on its file system. df would want to find its mount.
free_kb() {
  blocks=$(stat -f -c %a "$1") && size=$(stat -f -c %S "$1") && printf '%s\n' $((blocks * size / 1024))
}

check_space() {
  images_kb=0
  while read -r name; do
    # Most likely the same; if not, the copying will tell.
    if [ -f "$images/$name" ] && [ "$(size_of "$images/$name")" = "$(size_of "$artifacts/$name")" ]; then continue; fi
    images_kb=$((images_kb + $(size_of "$artifacts/$name") / 1024 + 1))
  done <"$work/archives"
  # The archive, and what is in it.
  prefix_kb=$(($(size_of "$artifacts/$tarball") * 3 / 1024 + 1024))
  at_images=$(existing "$images") at_prefix=$(existing "$prefix")
  if [ "$(stat -c %d "$at_images")" = "$(stat -c %d "$at_prefix")" ]; then
    room "$at_images" $((images_kb + prefix_kb)) "$images and $prefix"
  else
    room "$at_images" $images_kb "$images"
    room "$at_prefix" $prefix_kb "$prefix"
  fi
}

# room FOLDER KB FOR
room() {
  free=$(free_kb "$1") || return 0 # the copying will tell
  [ "$free" -ge "$2" ] || fail "the disk of $3 is too full: $(($2 / 1024 + 1)) MiB are needed and $((free / 1024)) MiB are free; nothing was changed" \
    "make room on the file system of $1, then run this again"
}

# same FILE SUM
same() { [ -f "$1" ] && [ ! -h "$1" ] && [ "$(sha256 "$1")" = "$2" ]; }

make_folder() {
  mkdir -p "$1" 2>"$work/why" || fail "the folder $1 cannot be made: $(cat "$work/why")" "make it, or choose another"
}

# note TEMPORARY FINAL: to be renamed when everything has been copied.
note() { printf '%s\t%s\n' "$1" "$2" >>"$work/pending"; }

# place FILE FOLDER NAME MODE SUM: a copy beside where it goes. Reading the copy back
# notices what went wrong on the way since the file was verified.
place() {
  if same "$2/$3" "$5" && [ "$(stat -c %a "$2/$3")" = "$4" ]; then
    say "unchanged  $2/$3"
    return
  fi
  make_folder "$2"
  [ ! -d "$2/$3" ] || fail "$2/$3 is a folder, and a file of that name is to be installed; nothing was changed" "move it away, then run this again"
  temporary=$2/.$3.rke2-install
  printf '%s\n' "$temporary" >>"$work/temporaries"
  rm -f "$temporary"
  cp "$1" "$temporary" 2>"$work/why" || fail "$1 cannot be copied to $2: $(cat "$work/why"); nothing was changed" \
    "make room there or mend what the message says, then run this again"
  { chown 0:0 "$temporary" && chmod "$4" "$temporary"; } 2>"$work/why" || fail "what is copied to $2 cannot be given to root: $(cat "$work/why"); nothing was changed" \
    "use a file system that has owners and modes"
  sync "$temporary" 2>/dev/null || sync
  [ "$(sha256 "$temporary")" = "$5" ] || fail "the copy of $1 in $2 is not what was verified; nothing was changed" \
    "check the medium and the disk (dmesg), then run this again"
  note "$temporary" "$2/$3"
}

# lock takes the folder that the archive is unpacked in; whoever has it runs.
lock() {
  stage=$prefix/.rke2-install
  make_folder "$prefix"
  if ! mkdir "$stage" 2>/dev/null; then
    read -r pid 2>/dev/null <"$stage/pid" || pid=
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && grep -q install "/proc/$pid/cmdline" 2>/dev/null; then
      unlocked=$stage stage=
      fail "another install.sh (process $pid) is installing to $prefix" "wait for it; if it is none, remove $unlocked"
    fi
    rm -rf "$stage"
    mkdir "$stage"
  fi
  printf '%s\n' $$ >"$stage/pid"
  # Of a run that was killed.
  rm -f "$images"/.rke2-images*.rke2-install
}

unpack() {
  lock
  cp "$artifacts/$tarball" "$stage/archive" 2>"$work/why" ||
    fail "$tarball cannot be copied to $stage: $(head -n 1 "$work/why"); nothing was changed" "make room there or mend what the message says, then run this again"
  [ "$(sha256 "$stage/archive")" = "$(listed "$tarball")" ] || fail "the copy of $tarball in $stage is not what was verified; nothing was changed" \
    "check the medium and the disk (dmesg), then run this again"
  mkdir "$stage/root"
  tar -xzf "$stage/archive" -C "$stage/root" 2>"$work/why" ||
    fail "$tarball cannot be unpacked in $stage: $(head -n 1 "$work/why"); nothing was changed" "make room there or mend what the message says, then run this again"
  rm -f "$stage/archive"
  for file in bin/rke2 bin/rke2-killall.sh bin/rke2-uninstall.sh share/rke2/LICENSE.txt share/rke2/rke2-cis-sysctl.conf \
    lib/systemd/system/rke2-server.service lib/systemd/system/rke2-server.env \
    lib/systemd/system/rke2-agent.service lib/systemd/system/rke2-agent.env; do
    if [ ! -f "$stage/root/$file" ] || [ -h "$stage/root/$file" ]; then fail "$tarball has no $file" "copy the release's artifacts again"; fi
  done
  version=$("$stage/root/bin/rke2" --version 2>"$work/why") || fail "the rke2 of $tarball does not run on this host ($machine): $(head -n 1 "$work/why")" \
    "is it for another architecture, or is $prefix mounted noexec? choose another folder with INSTALL_RKE2_TAR_PREFIX"
  development=
  case $version in *"(development build)"*) development=yes ;; esac
  version=$(printf '%s\n' "$version" | sed -n '1s/^rke2 version \([^ ]*\).*/\1/p')
  if [ -n "${INSTALL_RKE2_VERSION:-}" ] && [ "$INSTALL_RKE2_VERSION" != "$version" ]; then
    fail "$artifacts has rke2 $version, and INSTALL_RKE2_VERSION is $INSTALL_RKE2_VERSION" "copy the artifacts of that version, or leave INSTALL_RKE2_VERSION unset"
  fi
}

# place_tree: the archive's files. What an operator writes into an env file stays.
place_tree() {
  from=$stage/root
  for kind_of in server agent; do
    file=$from/lib/systemd/system/rke2-$kind_of
    sed "s|/usr/local/|$prefix/|g" "$file.service" >"$stage/unit"
    place "$stage/unit" "$units" "rke2-$kind_of.service" 644 "$(sha256 "$stage/unit")"
    env=$prefix/lib/systemd/system/rke2-$kind_of.env
    if [ -f "$env" ] && ! same "$env" "$(sha256 "$file.env")"; then
      say "kept       $env: it was edited here"
    else
      place "$file.env" "$prefix/lib/systemd/system" "rke2-$kind_of.env" 644 "$(sha256 "$file.env")"
    fi
  done
  for file in LICENSE.txt rke2-cis-sysctl.conf; do
    place "$from/share/rke2/$file" "$prefix/share/rke2" "$file" 644 "$(sha256 "$from/share/rke2/$file")"
  done
  for file in rke2-killall.sh rke2-uninstall.sh rke2; do
    place "$from/bin/$file" "$prefix/bin" "$file" 755 "$(sha256 "$from/bin/$file")"
  done
}

# place_manifest: what is installed, for rke2-uninstall.sh, which could not know of a
# folder of images elsewhere.
place_manifest() {
  manifest=$prefix/share/rke2/installed
  {
    for file in rke2 rke2-killall.sh rke2-uninstall.sh; do printf '%s\n' "$prefix/bin/$file"; done
    for file in LICENSE.txt rke2-cis-sysctl.conf; do printf '%s\n' "$prefix/share/rke2/$file"; done
    for file in server agent; do printf '%s\n' "$units/rke2-$file.service" "$prefix/lib/systemd/system/rke2-$file.env"; done
    while read -r name; do printf '%s\n' "$images/$name"; done <"$work/archives"
    # Archives that an earlier run installed and that are still there.
    [ ! -f "$manifest" ] || grep '/rke2-images[^/]*$' "$manifest" || :
  } | sort -u >"$stage/installed"
  place "$stage/installed" "$prefix/share/rke2" installed 644 "$(sha256 "$stage/installed")"
}

# commit renames everything that was copied, the binary last.
commit() {
  : >>"$work/pending"
  while IFS=$tab read -r temporary final; do
    mv -f "$temporary" "$final" || fail "$final cannot be replaced: some files are of the new version now, some are not" \
      "mend what the message says and run this again"
    say "installed  $final"
    printf '%s\n' "$final" >>"$work/installed"
  done <"$work/pending"
  sync
}

# drop_replaced removes archives of the sets that were installed in another form. Parts of
# a set, and what differs from an earlier one, replace nothing: that may still be needed.
drop_replaced() {
  while read -r whole; do
    for ending in $endings; do
      old=$images/$whole.$ending
      if [ ! -f "$old" ] || grep -Fqx -e "$whole.$ending" "$work/archives"; then continue; fi
      rm -f "$old"
      say "removed    $old: its images are in another file now"
    done
  done <"$work/whole"
}

label() {
  have restorecon && [ -s "$work/installed" ] || return 0
  while read -r file; do
    restorecon "$file" || warn "restorecon could not label $file: SELinux may keep rke2 from running; run restorecon -R on it"
  done <"$work/installed"
}

closing() {
  if [ -d /run/systemd/system ] && have systemctl; then
    systemctl daemon-reload || warn "systemctl daemon-reload failed: run it before you start the service"
  fi
  say
  say "rke2 $version is installed in $prefix, its images are in $images."
  [ -z "$development" ] || warn "this is a development build: whoever has its key can sign what this installer takes; use it for tests only"
  case ":$PATH:" in
    *":$prefix/bin:"*) ;;
    *) say "Add $prefix/bin to PATH." ;;
  esac
  if [ -d /run/systemd/system ] && have systemctl && systemctl --quiet is-active "rke2-$kind"; then
    say "The version that ran before still runs. To run this one: systemctl restart rke2-$kind"
  else
    say "Configure it in /etc/rancher/rke2/config.yaml, then: systemctl enable --now rke2-$kind"
  fi
}

clean_up() {
  if [ -s "$work/temporaries" ]; then
    while read -r file; do rm -f "$file"; done <"$work/temporaries"
  fi
  rm -rf "$work"
  [ -z "${stage:-}" ] || rm -rf "$stage"
}

main() {
  only_verify=
  for argument; do
    case $argument in
      --verify) only_verify=yes ;;
      --help | -h)
        usage
        exit
        ;;
      *) fail "what is $argument?" "run $0 --help" ;;
    esac
  done
  settings
  [ -n "$only_verify" ] || [ "$(id -u)" = 0 ] || fail "installing needs root" "run it again as root, e.g. with sudo -E"
  work=$(mktemp -d "${TMPDIR:-/tmp}/rke2-install.XXXXXX") || fail "no temporary folder can be made in ${TMPDIR:-/tmp}" "set TMPDIR to a folder that can be written to"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  verify_all
  [ -z "$only_verify" ] || return 0
  choose_prefix
  check_space
  unpack
  while read -r name; do place "$artifacts/$name" "$images" "$name" 644 "$(listed "$name")"; done <"$work/archives"
  place_tree
  place_manifest
  commit
  drop_replaced
  label
  closing
}

main "$@"

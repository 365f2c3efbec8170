#!/usr/bin/env bash
# Installs what is missing: each argument is PROGRAM:PACKAGE, or one word for both.
set -euo pipefail
declare -a missing=()
for word in "$@"; do
    program=${word%%:*} package=${word##*:}
    [ "$package" = busybox-static ] && program=busybox
    if ! command -v "$program" >/dev/null; then missing+=("$package"); fi
done
[ ${#missing[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "error: missing: ${missing[*]}" >&2; echo "hint: install them with this system's package tool, then run make again" >&2; exit 1; }
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
echo "installing ${missing[*]}" >&2
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

#!/usr/bin/env bash
# Unpacks the kubectl of Debian 12 (1.20) and of Debian 13 (1.32) into target/tools, without
# installing either: the tests drive both. The mirror is the one that this machine's apt uses.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
mkdir -p "$tools"

unpack() { # SUITE PACKAGE NAME
    local suite=$1 package=$2 name=$3 dir
    [ -x "$tools/$name" ] && return 0
    echo "fetching $package of $suite" >&2
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' RETURN
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    local mirror
    mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
        /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1 || true)
    [ -n "$mirror" ] || { echo "error: no apt mirror found on this machine" >&2; exit 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources.list"
    local options=(-qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$dir" && apt-get "${options[@]}" download "$package/$suite")
    dpkg -x "$dir"/"$package"_*.deb "$dir/root"
    install -m 0755 "$dir/root/usr/bin/kubectl" "$tools/$name"
}

unpack bookworm kubernetes-client kubectl-1.20
unpack trixie kubectl kubectl-1.32

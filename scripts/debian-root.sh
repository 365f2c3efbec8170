#!/usr/bin/env bash
# Makes a small Debian system in target/tools/debian-root, once, for the tests that boot systemd in a
# container, and says where it is. It comes from where this machine's own packages come from.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
root=$tools/debian-root
if [ ! -e "$root/.complete" ]; then
    scripts/install.sh debootstrap >&2
    . /etc/os-release
    site=$(scripts/debian-site.sh)
    rm -rf "$root" "$tools/download"
    mkdir -p "$tools/download"
    echo "making a Debian system for tests in $root" >&2
    debootstrap --variant=minbase --include=systemd,systemd-sysv,busybox-static,procps,man-db,bash-completion \
        "$VERSION_CODENAME" "$root" "$site" >"$tools/debootstrap.log" 2>&1 ||
        { tail -n 5 "$tools/debootstrap.log" >&2; echo "error: debootstrap failed, see $tools/debootstrap.log" >&2; exit 1; }
    # Installed here it would upgrade this machine's systemd; unpacked there it fits that one's libraries.
    chroot "$root" apt-get download systemd-container >/dev/null 2>&1 || true
    package=$(ls "$root"/systemd-container_*.deb 2>/dev/null | head -n 1)
    [ -n "$package" ] || { echo "error: the package systemd-container could not be fetched" >&2; exit 1; }
    # Not right into the root, where it would put a folder in the place of the link /lib.
    dpkg -x "$package" "$tools/download"
    install -m 755 "$tools/download/usr/bin/systemd-nspawn" "$root/usr/bin/systemd-nspawn"
    rm -rf "$package" "$root"/var/cache/apt/archives/*.deb
    touch "$root/.complete"
fi
echo "$root"

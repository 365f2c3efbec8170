#!/usr/bin/env bash
# Makes a small Debian system, once, for the tests that boot systemd in a container or on an emulated
# machine, and says where it is. It comes from where this machine's own packages come from.
#
#   scripts/debian-root.sh                    this machine's Debian, in target/tools/debian-root
#   scripts/debian-root.sh --suite bullseye   another one, in target/tools/debian-root-bullseye
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
suite=''
case ${1:-} in
    '') ;;
    --suite) suite=$2 ;;
    *) echo "error: unknown option $1" >&2; exit 2 ;;
esac
tools=$PWD/target/tools
root=$tools/debian-root${suite:+-$suite}
if [ ! -e "$root/.complete" ]; then
    scripts/install.sh debootstrap >&2
    . /etc/os-release
    site=$(scripts/debian-site.sh)
    rm -rf "$root" "$root.download"
    mkdir -p "$root.download"
    echo "making a Debian system for tests in $root" >&2
    debootstrap --variant=minbase --include=systemd,systemd-sysv,busybox-static,procps,man-db,bash-completion \
        "${suite:-$VERSION_CODENAME}" "$root" "$site" >"$root.log" 2>&1 ||
        { tail -n 5 "$root.log" >&2; echo "error: debootstrap failed, see $root.log" >&2; exit 1; }
    # Installed here it would upgrade this machine's systemd; unpacked there it fits that one's libraries.
    chroot "$root" apt-get download systemd-container >/dev/null 2>&1 || true
    package=$(ls "$root"/systemd-container_*.deb 2>/dev/null | head -n 1)
    [ -n "$package" ] || { echo "error: the package systemd-container could not be fetched" >&2; exit 1; }
    # Not right into the root, where it would put a folder in the place of the link /lib.
    dpkg -x "$package" "$root.download"
    install -m 755 "$root.download/usr/bin/systemd-nspawn" "$root/usr/bin/systemd-nspawn"
    rm -rf "$package" "$root"/var/cache/apt/archives/*.deb
    touch "$root/.complete"
fi
echo "$root"

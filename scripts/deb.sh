#!/usr/bin/env bash
# Makes a Debian package of a built binary: scripts/deb.sh BINARY ARCHITECTURE [FOLDER]
# ARCHITECTURE is amd64, arm64 or armhf. The pages and completions come from HOST_KITH, a binary that
# runs here; by default BINARY itself. DEB_LEVEL=0 packs nothing tightly, for tests.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1 architecture=$2 folder=${3:-target/deb}
host=${HOST_KITH:-$binary}
case $architecture in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-musl ;;
    armhf) target=armv7-unknown-linux-musleabihf ;;
    *) echo "error: $architecture is no architecture of a package: amd64, arm64 or armhf" >&2; exit 2 ;;
esac
version=$(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The same commit makes the same package.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$binary" "$root/usr/bin/kith"
install -D -m 644 systemd/kith.service "$root/usr/lib/systemd/system/kith.service"
install -D -m 644 systemd/kith.tmpfiles "$root/usr/lib/tmpfiles.d/kith.conf"
install -D -m 644 configs/agent.toml "$root/etc/kith/agent.toml"
install -d "$root"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d,man/man1,doc/kith/examples}
"$host" completion bash >"$root/usr/share/bash-completion/completions/kith"
"$host" completion zsh >"$root/usr/share/zsh/vendor-completions/_kith"
"$host" completion fish >"$root/usr/share/fish/vendor_completions.d/kith.fish"
"$host" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
cp -r configs/examples/. "$root/usr/share/doc/kith/examples/"
{ cat LICENSE; echo; scripts/licenses.sh "$target"; } >"$root/usr/share/doc/kith/copyright"

install -d -m 755 "$root/DEBIAN"
install -m 755 packaging/deb/{postinst,prerm,postrm} "$root/DEBIAN/"
echo /etc/kith/agent.toml >"$root/DEBIAN/conffiles"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" packaging/deb/control >"$root/DEBIAN/control"
find "$root" -print0 | xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
mkdir -p "$folder"
dpkg-deb --root-owner-group ${DEB_LEVEL:+-Zgzip "-z$DEB_LEVEL"} --build "$root" "$folder/kith_${version}_$architecture.deb" >/dev/null
echo "$folder/kith_${version}_$architecture.deb"

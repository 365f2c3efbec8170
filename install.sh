#!/bin/sh
# Installs Kith on a system without Debian's packages:
#
#     sh install.sh [BINARY]        the program, its unit, settings, completions and manual pages
#     sh install.sh --uninstall     the way back; settings, identity and data stay
#
# BINARY is by default `kith` beside this file, or what `make build` has made. PREFIX (/usr/local) and
# DESTDIR are as usual. Needs a POSIX shell and `install`, which busybox has too.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
bin=$dest$prefix/bin/kith
unit=$dest/etc/systemd/system/kith.service
share=$dest$prefix/share

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}

# Whether a real systemd should be told.
systemd() { [ -z "$dest" ] && [ -d /run/systemd/system ]; }

[ -n "$dest" ] || [ "$(id -u)" = 0 ] || fail "only root can install it" "sudo sh install.sh"

if [ "${1:-}" = --uninstall ]; then
    if systemd; then systemctl disable --now kith.service 2>/dev/null || true; fi
    [ ! -x "$bin" ] || [ -n "$dest" ] || "$bin" agent --cleanup || true
    rm -f "$bin" "$unit" "$dest/etc/tmpfiles.d/kith.conf" "$share/bash-completion/completions/kith" \
        "$share/zsh/site-functions/_kith" "$share/fish/vendor_completions.d/kith.fish" "$share"/man/man1/kith*.1
    if systemd; then systemctl daemon-reload; fi
    echo "kith is removed; /etc/kith and /var/lib/kith stay: remove them by hand if the device is not to come back"
    exit 0
fi

binary=${1:-}
for found in "$here/kith" "$here/target/release/kith"; do
    [ -n "$binary" ] || [ ! -f "$found" ] || binary=$found
done
[ -n "$binary" ] && [ -f "$binary" ] || fail "there is no program to install${binary:+ at $binary}" "make build, or sh install.sh BINARY"
version=$("$binary" --version 2>/dev/null) ||
    fail "$binary does not run here, on $(uname -m)" "take the one for this processor: cross/README.md"

install -d "$(dirname "$bin")" "$(dirname "$unit")" "$dest/etc/kith" "$dest/etc/tmpfiles.d" \
    "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d" "$share/man/man1"
# Beside the old one and then in its place: a program that runs is never written to.
install -m 755 "$binary" "$bin.new"
mv -f "$bin.new" "$bin"
sed "s|/usr/bin/kith|$prefix/bin/kith|" "$here/systemd/kith.service" >"$unit.new"
chmod 644 "$unit.new"
mv -f "$unit.new" "$unit"
install -m 644 "$here/systemd/kith.tmpfiles" "$dest/etc/tmpfiles.d/kith.conf"
if [ -f "$dest/etc/kith/agent.toml" ]; then
    install -m 644 "$here/configs/agent.toml" "$dest/etc/kith/agent.toml.new"
    settings="your settings stay; the new defaults are in /etc/kith/agent.toml.new"
else
    install -m 644 "$here/configs/agent.toml" "$dest/etc/kith/agent.toml"
    settings="the settings are in /etc/kith/agent.toml"
fi
"$binary" completion bash >"$share/bash-completion/completions/kith"
"$binary" completion zsh >"$share/zsh/site-functions/_kith"
"$binary" completion fish >"$share/fish/vendor_completions.d/kith.fish"
"$binary" man "$share/man/man1"

echo "$version is installed as $prefix/bin/kith; $settings"
if systemd; then
    systemctl daemon-reload
    if systemctl is-active --quiet kith.service; then
        systemctl restart kith.service
        echo "the agent was started again; containers ran on"
    else
        echo "start it now and at every boot: systemctl enable --now kith"
    fi
else
    echo "no systemd runs here: have your init run $prefix/bin/kith agent, and start it again whenever it ends"
fi
echo "what this device lacks, if anything: kith doctor"

#!/usr/bin/env bash
# Unpacks Debian's promtool into target/tools, for the tests of the metrics. The package is not
# installed: that would start a Prometheus.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
if [ ! -x "$tools/promtool" ]; then
    command -v apt-get >/dev/null || { echo "error: promtool is missing: put one into $tools" >&2; exit 1; }
    echo "fetching promtool" >&2
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    # Other users of the folder may be apt's own.
    chmod 755 "$dir"
    cd "$dir"
    apt-get -qq -o APT::Sandbox::User=root download prometheus 2>/dev/null ||
        { apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download prometheus; }
    dpkg -x prometheus_*.deb root
    mkdir -p "$tools"
    install -m 0755 root/usr/bin/promtool "$tools/promtool"
fi
echo "$tools/promtool"

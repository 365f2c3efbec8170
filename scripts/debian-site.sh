#!/usr/bin/env bash
# Says where this machine's own packages come from: the address of the Debian archive that apt uses.
set -euo pipefail
. /etc/os-release
site() { apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Release: $VERSION_CODENAME" 2>/dev/null | head -n 1; }
# Before the first update apt does not know where it takes packages from.
[ -n "$(site)" ] || apt-get update -qq
site=$(site)
[ -n "$site" ] || { echo "error: apt knows no source of $VERSION_CODENAME: run apt-get update" >&2; exit 1; }
echo "$site"

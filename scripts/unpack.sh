#!/usr/bin/env bash
# Unpacks Debian packages into a folder, without installing anything:
#
#   scripts/unpack.sh FOLDER PACKAGE...                    the packages alone
#   scripts/unpack.sh --closed FOLDER PACKAGE...           with everything that they need, down to libc
#   scripts/unpack.sh --architecture arm64 FOLDER PACKAGE...   those of another architecture
#   scripts/unpack.sh --suite bullseye FOLDER PACKAGE...   those of another Debian
#
# What is in FOLDER already, with the same words, is left alone.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
closed='' architecture=$(dpkg --print-architecture) suite=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --closed) closed=yes; shift ;;
        --architecture) architecture=$2; shift 2 ;;
        --suite) suite=$2; shift 2 ;;
        *) echo "error: unknown option $1" >&2; exit 2 ;;
    esac
done
folder=$(realpath -m "$1")
shift
wanted="$closed $architecture ${suite:+$suite: }$*"
[ "$(cat "$folder/.complete" 2>/dev/null)" = "$wanted" ] && exit 0

. /etc/os-release
site=$(scripts/debian-site.sh)
# A state of its own: this machine's has neither another architecture's or suite's lists nor an empty system.
apt=$PWD/target/tools/apt-${suite:+$suite-}$architecture
mkdir -p "$apt/lists/partial"
: >"$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site ${suite:-$VERSION_CODENAME} main" >"$apt/sources.list"
get() {
    apt-get -qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" \
        -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" \
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
echo "unpacking $*" >&2
[ -n "$(ls "$apt"/lists/*_Packages* 2>/dev/null)" ] || get update
rm -rf "$folder"
mkdir -p "$folder/archives/partial"
if [ -n "$closed" ]; then
    get -o "Dir::Cache::archives=$folder/archives" install --yes --download-only --no-install-recommends "$@"
else
    (cd "$folder/archives" && get download "$@")
fi
for package in "$folder"/archives/*.deb; do dpkg -x "$package" "$folder"; done
rm -r "$folder/archives"
echo "$wanted" >"$folder/.complete"

#!/usr/bin/env bash
# Prints what rustc is told for a release of kith on this machine: scripts/flags.sh
# Static and at a fixed address; and where Rust brings its own linker, without tables to unwind by, and
# with code that is the same kept once.
set -euo pipefail
flags="-C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no"
if [ "$(uname -m)" = x86_64 ]; then
    flags+=" -C link-arg=-Wl,-T,packaging/small.ld -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,--icf=all"
fi
echo "$flags"

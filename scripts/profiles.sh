#!/usr/bin/env bash
# Builds kith in several ways and measures each: scripts/profiles.sh [NAME...]
# Without names: released, s-thin, 3-fat. A build takes from a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no"
declare -a programs=()
for name in "${@:-released s-thin 3-fat}"; do for one in $name; do
    case $one in
        released) settings=() ;;
        s-thin) settings=(CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=4) ;;
        3-fat) settings=(CARGO_PROFILE_RELEASE_OPT_LEVEL=3) ;;
        *) echo "error: no profile $one: released, s-thin, 3-fat" >&2; exit 2 ;;
    esac
    env "${settings[@]}" RUSTFLAGS="$flags" cargo build --release --locked --bin kith --target "$host" --target-dir "target/profiles/$one" >&2
    programs+=("$one=$PWD/target/profiles/$one/$host/release/kith")
done; done
scripts/measure.py "${programs[@]}"

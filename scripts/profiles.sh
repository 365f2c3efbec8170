#!/usr/bin/env bash
# Builds kith in several ways and measures each: scripts/profiles.sh [NAME...]
# Without names: released, z-fat, z-mixed. A build takes from a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no"
FAST=(ring sha2 crc32fast zlib-rs ruzstd redb quinn-proto)
declare -a programs=()
for name in "${@:-released z-fat z-mixed}"; do for one in $name; do
    case $one in
        released) settings=() ;;
        s-fat) settings=(s fat 1) ;;
        z-fat | z-mixed) settings=(z fat 1) ;;
        3-fat) settings=(3 fat 1) ;;
        *) echo "error: no profile $one: released, s-fat, z-fat, z-mixed, 3-fat" >&2; exit 2 ;;
    esac
    options=()
    if [ ${#settings[@]} -gt 0 ]; then
        options=(--config "profile.release.opt-level=\"${settings[0]}\"" --config "profile.release.lto=\"${settings[1]}\"" --config "profile.release.codegen-units=${settings[2]}")
        [ "${settings[0]}" != 3 ] || options[1]="profile.release.opt-level=3"
    fi
    # Small except where bytes are turned over: cipher, sums, unpacking, the log and the state.
    if [ "$one" = z-mixed ]; then
        for crate in "${FAST[@]}"; do options+=(--config "profile.release.package.$crate.opt-level=3"); done
    fi
    RUSTFLAGS="$flags" cargo build --release --locked --bin kith --target "$host" --target-dir "target/profiles/$one" ${options[@]+"${options[@]}"} >&2
    programs+=("$one=$PWD/target/profiles/$one/$host/release/kith")
done; done
scripts/measure.py "${programs[@]}"

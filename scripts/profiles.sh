#!/usr/bin/env bash
# Builds kith in several ways and measures each: scripts/profiles.sh [NAME...]
#   released  as Cargo.toml has it: small, but fast where bytes are turned over
#   z         small everywhere
#   s         less small, but fast where bytes are turned over
#   s-thin    the same with thin LTO and four code generation units: quicker to build
#   3         fast everywhere
# Without names: all. A build takes ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- released z s s-thin 3
declare -a programs=()
for one in "$@"; do
    set_to() { options+=(--config "profile.release.$1=$2"); }
    options=()
    case $one in
        released) ;;
        z) for crate in $(sed -n 's/^\[profile\.release\.package\.\(.*\)\]/\1/p' Cargo.toml); do set_to "package.$crate.opt-level" '"z"'; done ;;
        s) set_to opt-level '"s"' ;;
        s-thin) set_to opt-level '"s"' && set_to lto '"thin"' && set_to codegen-units 4 ;;
        3) set_to opt-level 3 ;;
        *) echo "error: no profile $one: released, z, s, s-thin, 3" >&2; exit 2 ;;
    esac
    RUSTFLAGS=$(scripts/flags.sh) cargo build --release --locked --bin kith --target "$host" --target-dir "target/profiles/$one" ${options[@]+"${options[@]}"} >&2
    programs+=("$one=$PWD/target/profiles/$one/$host/release/kith")
done
scripts/measure.py "${programs[@]}"

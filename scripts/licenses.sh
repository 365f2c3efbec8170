#!/usr/bin/env bash
# Prints the licences of everything that is linked into kith, each text once. Needs jq.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-x86_64-unknown-linux-gnu}
declare -A told=()
echo "Kith is made of these packages, each under the licence that stands behind it."
echo
cargo tree --locked -e normal --target "$target" --prefix none -f '{p} {l}' | grep -v '^kith ' | sed 's/ (\*)$//; s/ (proc-macro)//; s/ ([^)]*vendor[^)]*)//' | sort -u
echo
cargo metadata --locked --format-version 1 --filter-platform "$target" |
    jq -r '.packages[] | select(.source != null or (.manifest_path | test("/vendor/"))) | "\(.name) \(.version)\t\(.manifest_path)"' | sort |
    while IFS=$'\t' read -r name manifest; do
        for file in "$(dirname "$manifest")"/{LICENSE,LICENCE,COPYING,COPYRIGHT,NOTICE,UNLICENSE,license}*; do
            [ -f "$file" ] || continue
            # Whose copyright it is stays, so only the very same text is left out.
            sum=$(sha256sum <"$file")
            [ -n "${told[$sum]:-}" ] && continue
            told[$sum]=1
            printf -- '--------------------------------------------------------------------------------\n%s: %s\n\n' "$name" "$(basename "$file")"
            cat "$file"
            echo
        done
    done

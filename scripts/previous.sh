#!/usr/bin/env bash
# Builds the release before this one into target/previous/kith, for the test in which both work in one
# fleet. tests/previous names it: a tag or a commit of this repository. KITH_PREVIOUS names a program
# that was built elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${KITH_PREVIOUS:-}" ] && { echo "$KITH_PREVIOUS"; exit 0; }
commit=$(sed '/^#/d' tests/previous)
place=$PWD/target/previous
if [ "$(cat "$place/commit" 2>/dev/null)" != "$commit" ]; then
    git rev-parse -q --verify "$commit^{commit}" >/dev/null || {
        echo "warning: $commit is not in this repository, and this very release stands in for it" >&2
        echo "hint: fetch the history, or name a program with KITH_PREVIOUS" >&2
        echo "$PWD/target/debug/kith"
        exit 0
    }
    echo "building the release before this one ($commit)" >&2
    rm -rf "$place/source"
    mkdir -p "$place/source" "$place/target/debug"
    git archive "$commit" | tar x -C "$place/source"
    # What other crates were compiled to is the same here.
    if [ -d target/debug/deps ] && [ ! -d "$place/target/debug/deps" ]; then
        mkdir -p "$place/target/debug/deps"
        find target/debug/deps -maxdepth 1 -type f ! -name '*kith*' ! -perm -u+x -exec ln -t "$place/target/debug/deps" {} +
        find target/debug/deps -maxdepth 1 -type f -name '*.so' -exec ln -f -t "$place/target/debug/deps" {} +
        cp -a target/debug/build target/debug/.fingerprint "$place/target/debug/"
    fi
    (cd "$place/source" && CARGO_TARGET_DIR="$place/target" cargo build --locked --bin kith >&2)
    strip -o "$place/kith" "$place/target/debug/kith"
    rm -rf "$place/target" "$place/source"
    echo "$commit" >"$place/commit"
fi
echo "$place/kith"

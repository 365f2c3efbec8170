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
        echo "error: the release before this one, $commit, is not in this repository" >&2
        echo "hint: git fetch --unshallow, or name a program that was built elsewhere with KITH_PREVIOUS" >&2
        exit 1
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

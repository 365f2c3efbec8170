#!/usr/bin/env bash
# Kith for another kind of device, as one static file:
#
#   cross/cross.sh build aarch64|armv7|x86_64          builds it, and prints where it is
#   cross/cross.sh run   aarch64|armv7|x86_64 [ARG...]  builds it, and runs it here, emulated
#   cross/cross.sh test  aarch64|armv7|x86_64          builds it quickly, and tries it here, emulated
#
# KITH_PROFILE=NAME takes another profile of Cargo.toml than release (test: cross). README.md beside
# this file says what is used. Everything that is fetched or made lies under target/cross.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
home=$PWD/target/cross

# The release of Rust whose standard library is built from source, where rustup can not bring it.
RUST=1.95.0
SOURCE_PACKAGE=pool/main/r/rustc/rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb
SOURCE_SHA256=7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b

usage() {
    echo "error: $1" >&2
    echo "hint: cross/cross.sh build|run|test aarch64|armv7|x86_64" >&2
    exit 2
}

[ $# -ge 2 ] || usage "an act and a kind of device are needed"
act=$1 device=$2
shift 2
case $device in
    aarch64) triple=aarch64-unknown-linux-musl emulator=qemu-aarch64 ;;
    armv7) triple=armv7-unknown-linux-musleabihf emulator=qemu-arm ;;
    x86_64) triple=x86_64-unknown-linux-musl emulator=qemu-x86_64 ;;
    *) usage "$device is no kind of device that Kith is built for" ;;
esac
case $act in
    build | run) profile=${KITH_PROFILE:-release} ;;
    test) profile=${KITH_PROFILE:-cross} ;;
    *) usage "$act is not something that this script does" ;;
esac

# zig, and cargo-zigbuild, in a folder of their own.
tools() {
    export PATH="$home/venv/bin:$PATH" CARGO_ZIGBUILD_CACHE_DIR="$home/zigbuild" ZIG_GLOBAL_CACHE_DIR="$home/zig"
    cmp -s cross/requirements.txt "$home/venv/.complete" && return
    scripts/install.sh gcc:build-essential python3 >&2
    python3 -c 'import ensurepip' 2>/dev/null || scripts/install.sh python3-venv >&2
    echo "fetching zig and cargo-zigbuild" >&2
    rm -rf "$home/venv"
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet --requirement cross/requirements.txt >&2
    cp cross/requirements.txt "$home/venv/.complete"
}

# The source of the standard library, as Debian has it.
source_of_std() {
    [ -e "$home/source/.$SOURCE_SHA256" ] && return
    command -v apt-get >/dev/null || {
        echo "error: Rust has no standard library for $triple here" >&2
        echo "hint: rustup target add $triple" >&2
        exit 1
    }
    local site
    site=$(scripts/debian-site.sh)
    rm -rf "$home/source"
    mkdir -p "$home/source"
    echo "fetching the source of Rust's standard library" >&2
    /usr/lib/apt/apt-helper download-file "$site/$SOURCE_PACKAGE" "$home/source/rust-src.deb" "SHA256:$SOURCE_SHA256" >&2 || {
        echo "error: ${SOURCE_PACKAGE##*/} could not be fetched from this machine's source of packages" >&2
        echo "hint: with a way to the internet, rustup target add $triple does without it" >&2
        exit 1
    }
    dpkg -x "$home/source/rust-src.deb" "$home/source"
    rm "$home/source/rust-src.deb"
    touch "$home/source/.$SOURCE_SHA256"
}

# The toolchain that is there, by links, with that source at the place where cargo looks for it.
sysroot() {
    local real=$1 root=$home/sysroot
    source_of_std
    rm -rf "$root"
    mkdir -p "$root/lib/rustlib/src"
    local entry
    for entry in "$real"/*; do [ "${entry##*/}" = lib ] || ln -s "$entry" "$root/"; done
    for entry in "$real"/lib/*; do [ "${entry##*/}" = rustlib ] || ln -s "$entry" "$root/lib/"; done
    for entry in "$real"/lib/rustlib/*; do [ "${entry##*/}" = src ] || ln -s "$entry" "$root/lib/rustlib/"; done
    ln -s "$home/source/usr/src/rustc-$RUST" "$root/lib/rustlib/src/rust"
    printf '#!/bin/sh\nexec "%s/bin/rustc" --sysroot "%s" "$@"\n' "$real" "$root" >"$home/rustc"
    chmod 755 "$home/rustc"
}

# Prints the path of the program.
build() {
    tools
    local real flags="-C relocation-model=static" name=${triple//-/_} std=()
    real=$(rustc --print sysroot)
    if [ ! -d "$real/lib/rustlib/$triple" ]; then
        [ "$(rustc --version | cut -d' ' -f2)" = "$RUST" ] || {
            echo "error: Rust has no standard library for $triple here, and it can be built from source for Rust $RUST only" >&2
            echo "hint: rustup target add $triple" >&2
            exit 1
        }
        sysroot "$real"
        export RUSTC=$home/rustc RUSTC_BOOTSTRAP=1
        flags+=" -C link-self-contained=no"
        std=(-Zbuild-std=std,panic_abort)
    fi
    # With panics that end the process, nothing reads the tables that unwinding needs: an eighth of the file.
    [ "$profile" = cross ] || flags+=" -C force-unwind-tables=no -C link-arg=-Wl,-T,packaging/small.ld -C link-arg=-Wl,--no-eh-frame-hdr"
    unset RUSTFLAGS CARGO_BUILD_TARGET
    export "CARGO_TARGET_${name^^}_RUSTFLAGS=$flags"
    export CARGO_TARGET_DIR=$home/build
    cargo-zigbuild zigbuild --locked --profile "$profile" --bin kith --target "$triple" ${std[@]+"${std[@]}"} >&2
    echo "$home/build/$triple/$profile/kith"
}

# Prints the path of the emulator of this device's processor.
emulator() {
    local found
    for found in "$emulator" "$emulator-static"; do
        if command -v "$found"; then return; fi
    done
    scripts/unpack.sh "$home/qemu" qemu-user-static >&2
    echo "$home/qemu/usr/bin/$emulator-static"
}

program=$(build)
case $act in
    build) echo "$program" ;;
    run)
        emulator=$(emulator)
        exec "$emulator" "$program" "$@"
        ;;
    test)
        emulator=$(emulator)
        exec cross/try.sh "$emulator" "$program"
        ;;
esac

#!/usr/bin/env bash
# Tries a build of kith that this machine can only emulate: cross/try.sh EMULATOR PROGRAM
#
# Two devices on a loopback of their own: one founds a fleet, keeps what it is given through kill -9,
# and lets the other in over QUIC; both have the same state, and an image goes into the store. No
# container: an emulator of programs can not make one, `make vm-arm` does.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${TRY_INSIDE:-}" != yes ]; then
    scripts/install.sh busybox-static unshare:util-linux >&2
    # Neither ports of this machine nor other devices around it play a part.
    if [ "$(id -u)" = 0 ]; then own=(--net); else own=(--net --map-root-user); fi
    TRY_INSIDE=yes exec unshare "${own[@]}" --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
# What builds are named by is no setting of an agent.
unset KITH_PROFILE
emulator=$1 program=$2
# Seconds for anything: emulated, on a busy machine.
PATIENCE=120
busybox ip link set lo up

work=$(mktemp -d)
cgroup=/kith/try-$(basename "$work")
# The agents end with this script: it is the first process of their namespace.
clean_up() {
    code=$?
    trap - EXIT
    if [ "$code" -ne 0 ]; then
        echo "FAILED: ${doing:-start}" >&2
        for log in "$work"/*/agent.log; do [ -e "$log" ] && { echo "--- $log"; tail -n 30 "$log"; } >&2; done
    fi
    for agent in "${agents[@]}"; do disown "$agent" 2>/dev/null; done
    kill -9 "${agents[@]}" 2>/dev/null || true
    rm -rf "$work"
    for folder in /sys/fs/cgroup/*"$cgroup" /sys/fs/cgroup"$cgroup"; do rmdir "$folder" 2>/dev/null || true; done
    exit "$code"
}
declare -A agents=()
trap clean_up EXIT

kith() { "$emulator" "$program" "$@"; }
on() { local device=$1; shift; kith --config "$work/$device/agent.toml" "$@"; }
now() { date +%s%N; }
step() { doing=$1 begun=$(now); }
done_with() { printf 'ok %6d ms  %s\n' $((($(now) - begun) / 1000000)) "$doing"; }
wait_for() {
    local until=$((SECONDS + PATIENCE))
    until "$@" >"$work/seen" 2>&1; do
        [ "$SECONDS" -lt "$until" ] || { echo "gave up: $*"; cat "$work/seen"; return 1; } >&2
        sleep 0.2
    done
}
settings() {
    local device=$1 number=$2
    mkdir "$work/$device"
    cat >"$work/$device/agent.toml" <<TOML
name = "$device"
data_dir = "$work/$device/data"
run_dir = "$work/$device/run"
log_dir = "$work/$device/log"
manifests_dir = ""
peer_listen = "127.0.0.1:$((7440 + number))"
api_listen = "127.0.0.1:$((6440 + number))"
advertise = ["127.0.0.1:$((7440 + number))"]
cgroup = "$cgroup"
[images]
clear_above_percent = 0
TOML
}
start() {
    "$emulator" "$program" --config "$work/$1/agent.toml" agent >>"$work/$1/agent.log" 2>&1 &
    agents[$1]=$!
}
has() { [[ $(on "$1" get configmap kept -o yaml) == *"word: durable"* ]]; }
both_ready() { [ "$(on "$1" get nodes --no-headers | grep -cw Ready)" = 2 ]; }
hash_of() { on "$1" status | grep '^State'; }
same_state() { [ -n "$(hash_of one)" ] && [ "$(hash_of one)" = "$(hash_of two)" ]; }

step "--version"
kith --version | tee "$work/version" | grep -q "^kith $(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' Cargo.toml)"
done_with

step "init"
settings one 1
settings two 2
token=$(on one init --quiet)
[[ $token == kith1.* ]]
done_with

step "one device leads itself and takes a write"
start one
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\ndata: {word: durable}\n' >"$work/kept.yaml"
wait_for on one apply -f "$work/kept.yaml"
done_with

step "it reads what was written"
has one
done_with

step "after kill -9 it is still there"
kill -9 "${agents[one]}"
wait "${agents[one]}" 2>/dev/null || true
start one
wait_for has one
done_with

step "another device joins over QUIC, and both are ready"
on two join "$token"
start two
wait_for both_ready two
done_with

step "it has the same state"
wait_for has two
wait_for same_state
done_with

step "an image is imported"
scripts/hello-image.sh "$work/rootfs.tar"
on one image import "$work/rootfs.tar" hello:1 --cmd /bin/hello
[[ $(on one image ls) == *hello* ]]
done_with

for device in one two; do
    if grep -n panicked "$work/$device/agent.log"; then doing="nothing panics"; exit 1; fi
done
echo "$(cat "$work/version") works on ${emulator##*/}"

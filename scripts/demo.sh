#!/bin/bash
# The demo: three devices form a fleet, run a web server on all of them, lose their leader, and one
# of them starts alone in the dark. Everything lives in network namespaces and is removed at the end.
#
#     KITH=target/release/kith scripts/demo.sh
set -euo pipefail

cd "$(dirname "$0")/.."
KITH=$(realpath "${KITH:-target/release/kith}")
FLEET=demo
DIR=/var/lib/kith-dev/$FLEET
PATIENCE=60

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

if [ "$(id -u)" -ne 0 ]; then
    echo "error: the demo makes network namespaces and cgroups, and needs root" >&2
    echo "hint: sudo make demo" >&2
    exit 1
fi

begun=$(date +%s%N)
work=$(mktemp -d)

clean_up() {
    code=$?
    trap - EXIT INT TERM
    if [ "$code" -ne 0 ]; then
        echo "error: the demo did not get to its end; the agents' last words:" >&2
        tail -n 5 "$DIR"/d*/agent.log >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    "$KITH" dev --fleet "$FLEET" down || code=1
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

millis() { echo $((($(date +%s%N) - $1) / 1000000)); }
seconds() { local ms; ms=$(millis "$1"); printf '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10)); }
say() { printf '\n%s[%s] %s%s\n' "$bold" "$(seconds "$begun")" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }

# kith, on the fleet, on a device.
dev() { "$KITH" dev --fleet "$FLEET" "$@"; }
on() { local device=$1; shift; dev exec "$device" -- "$@"; }

# Runs a command until it succeeds.
wait_for() {
    local what=$1 until=$((SECONDS + PATIENCE)); shift
    while ! "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$until" ] || { echo "error: waited $PATIENCE s for $what" >&2; exit 1; }
        sleep 0.1
    done
}

leader_seen_by() { on "$1" kith status -o json 2>/dev/null | sed -n 's/^  "leader": "\(.*\)".*/\1/p'; }
has_quorum() { on "$1" kith status -o json | grep -q '^  "quorum": true'; }
ready_is() { [ "$(on "$1" kith get deployment hello --no-headers | awk '{print $2}')" = "$2" ]; }
another_leads() { local seen; has_quorum "$1" && seen=$(leader_seen_by "$1") && [ -n "$seen" ] && [ "$seen" != "$2" ]; }
runs_without() { [ "$(on "$1" kith get pods -l app=hello -o wide --no-headers | grep -w Running | grep -cvw "$2")" -ge 6 ]; }
page() { on "$1" curl --silent --max-time 2 "http://$2:$3/"; }

# Asks every device's web servers, from another device.
ask_all() {
    local from=$1 address port; shift
    for device in "$@"; do
        address=10.77.0.$((10 + ${device#d}))
        for port in 8080 8081 8082 8083 8084 8085; do
            page "$from" "$address" "$port" 2>/dev/null | sed "s|^|    http://$address:$port/  |" || break
        done
    done
}

dev down >/dev/null

say "Three devices, each with its own network and folder, become a fleet. Nobody is the master."
show "kith dev up --devices 3"
dev up --devices 3

say "A small web server is packed as an image and put on every device."
show "kith image import rootfs.tar hello:1 --cmd /bin/hello"
scripts/hello-image.sh "$work/rootfs.tar"
dev image import "$work/rootfs.tar" hello:1 --cmd /bin/hello

say "A Deployment asks for three copies of it. Any device takes the order; the fleet spreads them."
show "kith apply -f configs/examples/hello.yaml"
asked=$(date +%s%N)
on d1 kith apply -f configs/examples/hello.yaml
wait_for "three ready copies" ready_is d2 3/3
echo "Three real containers were ready $(seconds "$asked") after the order:"
on d2 kith get pods -o wide
echo "Each answers with its device's name:"
ask_all d1 d1 d2 d3

say "Three become six."
show "kith scale deployment/hello --replicas 6"
on d3 kith scale deployment/hello --replicas 6
wait_for "six ready copies" ready_is d3 6/6
ask_all d1 d1 d2 d3

leader=$(leader_seen_by d1)
survivors=(d1 d2 d3)
survivors=("${survivors[@]/$leader/}")
read -r one two <<<"${survivors[*]}"
say "The leader is $leader. Its power is cut: agent, containers, all of it."
show "kith dev kill --power $leader"
killed=$(date +%s%N)
dev kill --power "$leader"
wait_for "another leader" another_leads "$one" "$leader"
echo "$(leader_seen_by "$one") leads after $(seconds "$killed"). Orders are taken again."

say "After ten silent seconds $leader counts as lost, and its copies start on $one and $two."
wait_for "six copies without $leader" runs_without "$one" "$leader"
echo "All six run again, $(seconds "$killed") after the power cut:"
on "$one" kith get pods -o wide
on "$one" kith status || true
ask_all "$one" "$one" "$two"

say "Now the whole site loses its power. $two comes back alone, and its network cable is out."
dev kill --power "$one"
dev kill --power "$two"
dev cut "$two"
booted=$(date +%s%N)
dev start "$two"
wait_for "$two to serve alone" page "$two" 127.0.0.1 8080 >/dev/null
echo "Without asking anybody it started its own copies, $(seconds "$booted") after its boot:"
ask_all "$two" "$two"
echo "It says that what it knows is old:"
on "$two" kith status || true

say "The others return, and the cable."
dev heal "$two"
dev start "$one"
dev start "$leader"
wait_for "a leader" has_quorum "$two"
wait_for "six ready copies" ready_is "$two" 6/6
on "$two" kith get nodes
ask_all "$two" d1 d2 d3

say "That was it: $(seconds "$begun"). Everything is removed again."

# What the scripts inside of an emulated machine share. Lines for the outside begin with "@ ".

# Seconds for anything: emulated, on a busy machine.
PATIENCE=180

say() { echo "@ $*"; }
up() { cut -d' ' -f1 /proc/uptime; }

# Ends the machine at once.
off() {
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
}

# Everything after `step` belongs to it, until the next.
step() { doing=$*; begun=$(up); }
ok() { say "ok $(echo "$(up) $begun" | awk '{printf "%5.1f", $1 - $2}') s  $doing${1:+: $1}"; }
fail() {
    say "FAILED: $doing${1:+: $1}"
    last_words
    off
}
expect() { [ "$1" = "$2" ] || fail "${3:-it} is '$1', not '$2'"; }

# Runs a command until it succeeds.
wait_for() {
    waited=0
    until "$@" >/tmp/seen 2>&1; do
        [ "$waited" -lt "$PATIENCE" ] || fail "gave up on $*: $(tail -n 3 /tmp/seen)"
        sleep 1
        waited=$((waited + 1))
    done
}

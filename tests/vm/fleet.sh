# A fleet of three devices on this one machine, in network namespaces of its own, with real
# containers: they elect a leader, run a workload, lose the leader, and write again.
. /vm/guest.sh
last_words() {
    kith dev --fleet vm exec d1 -- kith get pods -o wide
    tail -n 20 /var/lib/kith-dev/vm/d*/agent.log
    dmesg | tail -n 20
}
on() { device=$1; shift; kith dev --fleet vm exec "$device" -- "$@"; }
ready() { [ "$(on "$1" kith get deployment hello --no-headers | awk '{print $2}')" = "$2" ]; }
# busybox's own wget crashes on aarch64.
page() { printf 'GET / HTTP/1.0\r\n\r\n' | on "$1" nc -w 5 "$2" 8080 | grep "hello from"; }
# Pids of the programs whose words, each with a space behind it, match.
running() {
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q "$1"; then echo "${process#/proc/}"; fi
    done
}
leader() { on "$1" kith status -o json | sed -n 's/^  "leader": "\(.*\)".*/\1/p'; }
another() { seen=$(leader "$1"); [ -n "$seen" ] && [ "$seen" != "$2" ] && on "$1" kith scale deployment/hello --replicas 2; }

say "$(uname -srm), $(grep -c ^processor /proc/cpuinfo) processors, $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MB"
mkdir -p /var/lib/kith-dev
mount -t ext4 /dev/vdb /var/lib/kith-dev || fail "no second disk"

step "three devices form a fleet"
kith dev --fleet vm up --devices 3 --timeout 3m || fail
ok

step "a workload runs on all three, each copy in a container"
kith dev --fleet vm image import /vm/rootfs.tar hello:1 --cmd /bin/hello || fail
wait_for on d1 kith apply -f /vm/hello.yaml
wait_for ready d2 3/3
ok

step "it is reached on each device from another"
for number in 11 12 13; do wait_for page d1 10.77.0.$number; done
ok

step "each container has its limits, in version 2 of cgroups"
pid=$(running '/bin/hell[o]' | head -n 1)
cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
expect "$(cat "$cgroup/memory.max")" 33554432 memory.max
expect "$(cat "$cgroup/memory.swap.max")" 0 memory.swap.max
expect "$(cat "$cgroup/cpu.max")" "50000 100000" cpu.max
expect "$(cat "$cgroup/pids.max")" 1024 pids.max
expect "$(sed -n 's/^Seccomp:[^0-9]*//p' "/proc/$pid/status")" 2 "the mode of its filter"
ok

step "what an agent holds"
for pid in $(running ' agen[t] $'); do
    sizes="$sizes $(awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup")"
done
ok "KiB of memory (PSS)$sizes"

first=$(leader d1)
step "the leader loses its power, another one leads and takes a write"
kith dev --fleet vm kill --power "$first" || fail
for device in d1 d2 d3; do [ "$device" = "$first" ] || other=$device; done
wait_for another "$other" "$first"
ok

step "everything is removed again"
kith dev --fleet vm down || fail
expect "$(find /sys/fs/cgroup -path '*kith*' -type d | wc -l)" 0 "the number of cgroups left"
ok
say "all of it works"
off

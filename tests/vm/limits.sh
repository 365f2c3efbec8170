# One device on Debian with systemd, where version 2 of cgroups holds every limit: pods that take
# whatever they can get. Only they suffer.
. /vm/guest.sh
last_words() {
    kith get pods -o wide
    journalctl -u kith --no-pager | tail -n 40
    dmesg | tail -n 20
}
field() { kith get pod "$1" -o yaml | sed -n "s/^ *-* *$2: *//p" | head -n 1; }
has() { kith get pod "$1" -o json | grep -q "\"reason\": \"$2\""; }
phase() { [ "$(field "$1" phase)" = "$2" ]; }
running() { for pod in "$@"; do phase "$pod" Running || return 1; done; }
# The first process whose command line has a word, and its cgroup's folder.
process() { pgrep -f "$1" | head -n 1; }
group() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(process "$1")/cgroup")"; }
gone() { ! kith get pod "$1" >/dev/null 2>&1; }
told() { kith logs "$1" 2>/dev/null | grep -q "$2"; }

# name, shell script, limits, more of the container
pod() {
    cat >/tmp/pod.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: hello:1
    command: [/bin/sh, -c, "$2"]
    resources: {limits: {$3}}
    $4
YAML
    kith apply -f /tmp/pod.yaml >/dev/null || fail "the pod $1 is not taken"
}
# What a well-behaved pod and the agent go on doing while another one does its worst.
unharmed() {
    running calm || fail "calm does not run"
    expect "$(process 9876)" "$calm" "the process of calm"
    before=$(kith logs calm | tail -n 1)
    wait_for ticked "$before"
    kith status >/dev/null || fail "the agent does not answer"
    expect "$(systemctl show -p NRestarts --value kith)" "$restarts" "the number of the agent's restarts"
}
ticked() { [ "$(kith logs calm | tail -n 1)" != "$1" ]; }

say "$(uname -srm), systemd $(systemctl --version | awk 'NR == 1 {print $2}'), $(grep -c ^processor /proc/cpuinfo) processors, $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MB"
step "version 2 of cgroups holds every limit, and there is swap"
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || fail "cgroup2 is not mounted"
! grep -q ' cgroup ' /proc/mounts || fail "version 1 is mounted too"
for controller in cpu memory pids io; do grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers || fail "no $controller"; done
dd if=/dev/zero of=/swap bs=1M count=128 2>/dev/null && chmod 600 /swap && busybox mkswap /swap >/dev/null && busybox swapon /swap || fail "no swap"
ok

step "the service starts"
mkdir -p /var/lib/kith /etc/kith
mount -t ext4 /dev/vdb /var/lib/kith || fail "no second disk"
printf 'name = "gate"\npids_limit = 128\n[security]\nallow_capabilities = ["MKNOD"]\n[eviction]\npressure_seconds = 5\n' >/etc/kith/agent.toml
systemctl start kith || fail
kith init --name gate >/dev/null 2>&1 || fail
wait_for sh -c 'kith get nodes | grep -qw Ready'
kith image import /vm/rootfs.tar hello:1 >/dev/null || fail
restarts=0
ok

step "a pod has its limits, as the kernel has them"
pod calm 'while :; do date; sleep 1; done; : 9876' 'cpu: 500m, memory: 32Mi'
wait_for running calm
calm=$(process 9876) cgroup=$(group 9876)
expect "$(cat "$cgroup/memory.max")" 33554432 memory.max
expect "$(cat "$cgroup/memory.swap.max")" 0 memory.swap.max
expect "$(cat "$cgroup/cpu.max")" "50000 100000" cpu.max
expect "$(cat "$cgroup/pids.max")" 128 pids.max
unharmed
ok "$cgroup"

step "one that takes all memory is ended for it, and told so, however much swap there is"
pod hog 'sleep 3; exec tail /dev/zero' 'memory: 48Mi'
wait_for phase hog Failed
has hog OOMKilled || fail "the reason is another"
unharmed
expect "$(awk 'NR == 2 {print $4}' /proc/swaps)" 0 "the swap that is used"
ok

step "a fork bomb stays within its number of processes"
pod bomb 'bomb() { bomb | bomb & }; sleep 2; bomb; sleep 5432' 'cpu: 300m, memory: 64Mi'
wait_for running bomb
bomb=$(group 5432)
limited() { awk '/^max/ {exit !($2 > 20)}' "$bomb/pids.events"; }
wait_for limited
[ "$(cat "$bomb/pids.peak" 2>/dev/null || cat "$bomb/pids.current")" -le 128 ] || fail "it has $(cat "$bomb/pids.current") processes"
unharmed
tries=$(awk '/^max/ {print $2}' "$bomb/pids.events")
kith delete pod bomb >/dev/null || fail
wait_for gone bomb
[ ! -e "$bomb" ] || fail "its cgroup is left"
ok "the kernel refused it $tries processes, and it was removed"

step "one that computes for ever gets what it may have"
pod busy 'while :; do :; done; : 8765' 'cpu: 200m, memory: 16Mi'
wait_for running busy
busy=$(group 8765)
expect "$(cat "$busy/cpu.max")" "20000 100000" cpu.max
used() { awk '/^usage_usec/ {print $2}' "$busy/cpu.stat"; }
sleep 3
begun_at=$(used) since=$(up)
sleep 10
share=$(echo "$(used) $begun_at $(up) $since" | awk '{printf "%d", ($1 - $2) / ($3 - $4) / 1000}')
[ "$share" -ge 120 ] && [ "$share" -le 230 ] || fail "it had $share thousandths of a core"
unharmed
kith delete pod busy >/dev/null
wait_for gone busy
ok "$share thousandths of a core"

step "one that fills its disk is evicted"
pod filler 'mkdir /tmp/f; i=0; while [ $i -lt 90 ]; do dd if=/dev/zero of=/tmp/f/$i bs=1M count=1 2>/dev/null; i=$((i+1)); done; sleep 6543' 'memory: 64Mi, ephemeral-storage: 20Mi'
wait_for phase filler Failed
has filler Evicted || fail "the reason is another"
unharmed
ok

step "what one that is over has written goes before anybody is evicted for it"
pod over 'mkdir /tmp/f; cd /tmp/f; seq 9000 | xargs touch; true' 'memory: 64Mi'
wait_for phase over Succeeded
wait_for sh -c 'journalctl -u kith | grep -q "containers that are over left is removed"'
unharmed
ok

step "one that takes all inodes is evicted before the device has none"
pod files 'mkdir /tmp/f; cd /tmp/f; seq 9000 | xargs touch; sleep 7654' 'memory: 64Mi'
wait_for phase files Failed
has files Evicted || fail "the reason is another"
unharmed
ok

step "a device's disk is out of reach, also for one that may make its node"
disk=$(sed 's/:/ /' /sys/block/vda/dev)
pod disk "mknod /dev/own b $disk && dd if=/dev/own of=/dev/null bs=512 count=1; echo read \$?; echo > /dev/null && echo null \$?; echo max > /sys/fs/cgroup/memory.max; echo raise \$?; sleep 4321" 'memory: 32Mi' 'securityContext: {capabilities: {add: [MKNOD]}}'
wait_for told disk '^raise'
kith logs disk >/tmp/disk
grep -q "^read 1" /tmp/disk && grep -q "not permitted" /tmp/disk || fail "$(cat /tmp/disk)"
grep -q "^null 0" /tmp/disk || fail "$(cat /tmp/disk)"
grep -q "^raise 1" /tmp/disk || fail "$(cat /tmp/disk)"
kith delete pod disk >/dev/null
ok

step "a killed agent comes back and takes over what runs"
systemctl kill -s KILL --kill-whom main kith
again() { [ "$(systemctl show -p NRestarts --value kith)" = 1 ] && kith status >/dev/null; }
wait_for again
restarts=1
wait_for running calm
unharmed
expect "$(field calm restartCount)" 0 "the number of its restarts"
ok

step "what is deleted leaves nothing"
kith delete pod calm hog filler over files >/dev/null
wait_for gone calm
nothing() { [ "$(find /sys/fs/cgroup/kith -mindepth 1 -type d | wc -l)" = 0 ]; }
wait_for nothing
ok
say "all of it works"
off

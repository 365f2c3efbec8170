# Where version 2 of cgroups holds every limit: pods that take whatever they can get. Only they suffer.
# Read by the scripts of machines.
step "version 2 of cgroups holds every limit, and there is swap"
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || fail "cgroup2 is not mounted"
! grep -q ' cgroup ' /proc/mounts || fail "version 1 is mounted too"
for controller in cpu memory pids io; do grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers || fail "no $controller"; done
dd if=/dev/zero of=/swap bs=1M count=128 2>/dev/null && chmod 600 /swap && busybox mkswap /swap >/dev/null && busybox swapon /swap || fail "no swap"
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
kill -9 "$(systemctl show -p MainPID --value kith)"
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

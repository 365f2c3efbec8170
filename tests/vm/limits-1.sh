# Where version 1 of cgroups has the controllers, as on many an old board: the limits, and that they hold.
step "a pod has its limits in version 1 of cgroups, as the kernel has them"
pod calm 'while :; do date; sleep 1; done; : 9876' 'cpu: 500m, memory: 32Mi'
wait_for running calm
calm=$(process 9876) restarts=0
expect "$(cat "$(legacy memory 9876)/memory.limit_in_bytes")" 33554432 memory.limit_in_bytes
expect "$(cat "$(legacy cpu 9876)/cpu.cfs_quota_us")" 50000 cpu.cfs_quota_us
expect "$(cat "$(legacy pids 9876)/pids.max")" 128 pids.max
unharmed
ok

step "one that takes all memory is ended for it, and told so"
pod hog 'sleep 3; exec tail /dev/zero' 'memory: 48Mi'
wait_for phase hog Failed
has hog OOMKilled || fail "the reason is another"
unharmed
ok

step "a device's disk is out of reach, also for one that may make its node"
disk=$(sed 's/:/ /' /sys/block/vda/dev)
pod disk "mknod /dev/own b $disk && dd if=/dev/own of=/dev/null bs=512 count=1; echo read \$?; echo > /dev/null && echo null \$?; sleep 4321" 'memory: 32Mi' 'securityContext: {capabilities: {add: [MKNOD]}}'
wait_for told disk '^null'
told disk '^read 1' && told disk '^null 0' || fail "$(kith logs disk)"
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
kith delete pod calm hog disk >/dev/null
wait_for gone calm
nothing() { [ "$(find /sys/fs/cgroup/ -path '*/kith/*' -type d | wc -l)" = 0 ]; }
wait_for nothing
ok

# The oldest system that Kith promises to run on: Debian 11, its kernel, its systemd. Kith gets there by
# install.sh, as on any distribution that has no package of it. Then all that a device does, and after
# it limits.sh, or its like where version 1 of cgroups has the controllers.
. /vm/guest.sh
. /vm/pods.sh
introduce
hybrid=
! grep -q ' cgroup .*memory' /proc/mounts || hybrid=yes
# The first process of a container, of whichever pod has the word in its command line, in one hierarchy.
legacy() { echo "/sys/fs/cgroup/$1$(sed -n "s/^[0-9]*:[^:]*\b$1\b[^:]*://p" "/proc/$(process "$2")/cgroup")"; }
# What the agent has said of the unit, of systemd's own accord.
grumbled() { journalctl -b --no-pager -o cat | grep -iE 'kith.service.*(unknown|ignor|fail)|(unknown|ignor|fail).*kith.service'; }
in_calm() { kith exec calm -- sh -c "$1" 2>&1; }

step "install.sh installs it"
cp -r /vm/kith /tmp/kith && cd /tmp/kith
sh install.sh ./kith >/tmp/installed 2>&1 || fail "$(cat /tmp/installed)"
grep -q "systemctl enable --now kith" /tmp/installed || fail "$(cat /tmp/installed)"
expect "$(command -v kith)" /usr/local/bin/kith "the program"
ok "$(kith --version)"

step "the service starts as its unit says, and systemd takes all of it"
start_service
expect "$(systemctl is-active kith)" active
expect "$(systemctl show -p Type --value kith)" notify "its type"
expect "$(systemctl show -p WatchdogUSec --value kith)" 4min "its watchdog"
expect "$(systemctl show -p Delegate --value kith)" yes "delegation"
! grumbled || fail "systemd does not know all of it: $(grumbled | head -n 3)"
expect "$(systemd-analyze verify /etc/systemd/system/kith.service 2>&1 | grep -F kith.service)" "" "what systemd-analyze says"
ok

step "kith doctor finds nothing that is not true"
# Not at once on a machine that is busy with itself.
sound() {
    kith doctor >/tmp/doctor 2>&1
    ! grep -E '^ +problem' /tmp/doctor
}
wait_for sound
while read -r line; do say "     $line"; done </tmp/doctor
grep -q mapped-mounts /tmp/doctor || fail "it does not say that mounts can not have other owners"
ok

step "a pod starts, and answers on its published port"
cat >/tmp/web.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: main
    image: hello:1
    command: [/bin/hello]
    ports: [{containerPort: 8080, hostPort: 18080}]
    resources: {limits: {cpu: 500m, memory: 32Mi}}
YAML
kith apply -f /tmp/web.yaml >/dev/null || fail
wait_for ready web
# busybox's own wget crashes here too.
page() { printf 'GET / HTTP/1.0\r\n\r\n' | timeout 10 busybox nc -w 5 127.0.0.1 18080 | grep "hello from"; }
wait_for page
told web "serving on port 8080" || fail "its log is $(kith logs web)"
ok

step "a program runs in a container, with its exit code, its rights and nothing of the agent's"
pod calm 'while :; do date; sleep 1; done; : 9876' 'cpu: 500m, memory: 32Mi'
wait_for running calm
expect "$(in_calm 'echo $((6 * 7))')" 42 "what it says"
in_calm 'exit 7' >/dev/null
expect $? 7 "its exit code"
expect "$(in_calm 'cd /proc/self/fd; echo *')" "0 1 2 3" "its descriptors"
expect "$(in_calm "sed -n 's/^Seccomp:[^0-9]*//p' /proc/self/status")" 2 "the mode of its filter"
expect "$(in_calm "sed -n 's/^NoNewPrivs:[^0-9]*//p' /proc/self/status")" 1 "whether it can gain rights"
ok

step "more containers than a service of systemd's may lock memory for"
{
    printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: many}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n'
    for number in $(seq 24); do
        printf '  - {name: c%s, image: "hello:1", command: [/bin/sleep, "5151"], resources: {limits: {memory: 8Mi}}}\n' "$number"
    done
} >/tmp/many.yaml
kith apply -f /tmp/many.yaml >/dev/null || fail
all_of_them() { [ "$(pgrep -fc 'slee[p].5151')" = 24 ] && ready many; }
wait_for all_of_them
kith delete pod many >/dev/null
wait_for gone many
if [ -z "$hybrid" ]; then
    # The kernel counts the programs that decide on devices as memory that root has locked.
    bound() { setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource sh -c 'ulimit -l 0 && kith doctor devices-program'; }
    ! bound >/tmp/bound 2>&1 || fail "this kernel counts nothing: $(cat /tmp/bound)"
    grep -q LimitMEMLOCK /tmp/bound || fail "kith doctor does not say what to do: $(cat /tmp/bound)"
fi
ok "$(systemctl show -p LimitMEMLOCK --value kith) bytes"

step "a volume that is only read is so with everything mounted in it"
mkdir -p /srv/own/below && mount -t tmpfs below /srv/own/below && echo inside >/srv/own/below/file
cat >/tmp/volume.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: hello:1
    command: [/bin/sh, -c, 'cat /own/below/file; echo x >/own/file; echo y >/own/below/file; echo "told \$?"; sleep 6161']
    volumeMounts: [{name: own, mountPath: /own, readOnly: true}]
  volumes: [{name: own, hostPath: {path: /srv/own}}]
YAML
kith apply -f /tmp/volume.yaml >/dev/null || fail
wait_for told volume '^told 1'
told volume '^inside' || fail "what is mounted below is missing: $(kith logs volume)"
expect "$(cat /srv/own/below/file)" inside "the file"
[ ! -e /srv/own/file ] || fail "it could write"
kith delete pod volume >/dev/null
wait_for gone volume
ok

step "a pod with users of its own is refused by name"
cat >/tmp/users.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: users}
spec:
  hostUsers: false
  containers:
  - {name: main, image: "hello:1", command: [/bin/sleep, "1000"]}
YAML
kith apply -f /tmp/users.yaml >/dev/null || fail
named() { kith describe pod users | grep -q "Linux 5.19"; }
wait_for named
kith delete pod users >/dev/null
wait_for gone users
ok

step "a killed shim is replaced, and what it had runs on"
calm=$(process 9876)
shim=$(pgrep -f 'shim wait.*calm' | head -n 1)
[ -n "$shim" ] || shim=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$calm/status")
kill -9 "$shim" || fail "there is no shim"
unharmed
another_shim() { new=$(pgrep -f 'shim wait' | grep -vx "$shim" | wc -l); [ "$new" -ge 2 ]; }
wait_for another_shim
expect "$(in_calm 'echo $((6 * 7))')" 42 "what a program in it says"
ok

step "another program takes over from one that runs"
agent=$(systemctl show -p MainPID --value kith)
printf 'another' >>/tmp/kith/kith
(cd /tmp/kith && sh install.sh ./kith) >/tmp/installed 2>&1 || fail "$(cat /tmp/installed)"
grep -q "containers ran on" /tmp/installed || fail "$(cat /tmp/installed)"
[ "$(systemctl show -p MainPID --value kith)" != "$agent" ] || fail "the old one runs"
wait_for kith status
expect "$(tail -c 7 "/proc/$(systemctl show -p MainPID --value kith)/exe")" another "the end of the program that runs"
wait_for running calm web
unharmed
page >/dev/null || fail "the published port is gone"
expect "$(field calm restartCount)" 0 "the number of its restarts"
ok

step "a pod that is asked to end ends by itself"
pod polite 'trap \"echo bye; exit 0\" TERM; echo up; while :; do sleep 1; done; : 7171' 'memory: 16Mi'
wait_for told polite up
kith logs -f polite >/tmp/polite 2>&1 &
sleep 2
kith delete pod polite --grace-period 30 >/dev/null || fail
wait_for gone polite
grep -q bye /tmp/polite || fail "its log ends with $(tail -n 1 /tmp/polite)"
ok

step "what is deleted is gone"
kith delete pod web calm >/dev/null || fail
wait_for gone calm
wait_for gone web
ok

if [ -z "$hybrid" ]; then
    . /vm/limits.sh
else
    . /vm/limits-1.sh
fi

step "what install.sh brought, it takes away"
(cd /tmp/kith && sh install.sh --uninstall) >/tmp/removed 2>&1 || fail "$(cat /tmp/removed)"
[ ! -e /usr/local/bin/kith ] && [ ! -e /etc/systemd/system/kith.service ] || fail "something is left"
expect "$(pgrep -fc '[k]ith')" 0 "the number of its processes"
ok
say "all of it works"
off

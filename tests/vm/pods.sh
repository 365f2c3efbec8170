# What the scripts for a device on Debian with systemd share: pods, and what is asked about them.
last_words() {
    kith get pods -o wide
    journalctl -u kith --no-pager | tail -n 40
    dmesg | tail -n 20
}
field() { kith get pod "$1" -o yaml | sed -n "s/^ *-* *$2: *//p" | head -n 1; }
has() { kith get pod "$1" -o json | grep -q "\"reason\": \"$2\""; }
phase() { [ "$(field "$1" phase)" = "$2" ]; }
running() { for pod in "$@"; do phase "$pod" Running || return 1; done; }
ready() { kith get pod "$1" --no-headers | grep -q ' \([0-9]*\)/\1 '; }
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

# The device in one line.
introduce() {
    say "$(uname -srm), systemd $(systemctl --version | awk 'NR == 1 {print $2}'), $(grep -c ^processor /proc/cpuinfo) processors, $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MB"
}

# The service on a disk of its own, with a fleet of one device and an image.
start_service() {
    mkdir -p /var/lib/kith /etc/kith
    mount -t ext4 /dev/vdb /var/lib/kith || fail "no second disk"
    printf 'name = "gate"\npids_limit = 128\nhost_paths = ["/srv/own"]\n[security]\nallow_capabilities = ["MKNOD"]\n[eviction]\npressure_seconds = 5\n' >/etc/kith/agent.toml
    systemctl enable --now kith 2>/dev/null || fail
    kith init --name gate >/dev/null 2>&1 || fail
    wait_for sh -c 'kith get nodes | grep -qw Ready'
    kith image import /vm/rootfs.tar hello:1 >/dev/null || fail
    restarts=0
}

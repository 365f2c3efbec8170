use std::collections::BTreeMap;

use super::facts::{Answer, Card, Certificate, Chain, Fleet, Peer, Port, Private, Try, Unit, Version};
use super::{Facts, Finding, GROUPS, Outcome, examine, unknown};

/// A Debian of today on a PC, where all is well and the agent runs.
fn debian() -> Facts {
    let mut facts = Facts { root: true, model: "NUC".into(), version: "0.1.0".into(), ..Facts::default() };
    let names = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<String>>();
    facts.kernel.release = "6.1.0-18-amd64".into();
    facts.kernel.machine = "x86_64".into();
    facts.kernel.built_for = "x86_64".into();
    facts.kernel.modules = Some(true);
    facts.kernel.namespaces = Some(names("cgroup ipc mnt net pid time user uts"));
    facts.kernel.seccomp = Some(names("kill_process kill_thread trap errno user_notif trace log allow"));
    for tried in [
        &mut facts.kernel.overlay,
        &mut facts.kernel.devices_program,
        &mut facts.kernel.packet_filter,
        &mut facts.kernel.bridge,
        &mut facts.kernel.cable,
        &mut facts.kernel.pidfd,
        &mut facts.kernel.sealed,
    ] {
        *tried = Try::Works;
    }
    facts.kernel.pressure = Some(true);
    facts.cgroups.version = Version::V2;
    facts.cgroups.controllers = names("cpuset cpu io memory hugetlb pids rdma misc");
    facts.cgroups.swap = Some(true);
    facts.cgroups.read_only = Some(false);
    facts.clock.now = 1_800_000_000_000;
    facts.clock.floor = 1_793_491_200_000;
    facts.clock.latest_file = Some(1_799_999_999_000);
    facts.clock.synchronised = Some(true);
    facts.clock.error = Some(20_000);
    facts.clock.hardware = Some(true);
    facts.clock.services = names("chronyd");
    facts.clock.zone = Some(Ok("Europe/Berlin".into()));
    facts.disk.folder = "/var/lib/kith".into();
    facts.disk.kind = "ext4".into();
    facts.disk.device = "nvme0n1".into();
    facts.disk.read_only = Some(false);
    facts.disk.root_read_only = Some(false);
    facts.disk.total = Some(100 << 30);
    facts.disk.free = Some(60 << 30);
    facts.disk.inodes = Some(6_000_000);
    facts.disk.inodes_free = Some(5_000_000);
    facts.disk.syncs = Some(Ok(vec![900, 1100, 1000, 5000]));
    facts.disk.errors = Some(0);
    facts.disk.written = Some(1 << 30);
    facts.disk.uptime = 86_400;
    facts.disk.run_kind = "tmpfs".into();
    facts.disk.log_free = Some(60 << 30);
    facts.store.log = Some(true);
    facts.store.state = Some(true);
    facts.store.images = Some((3, Vec::new()));
    facts.store.leftovers = Some(Vec::new());
    surroundings(&mut facts);
    facts
}

/// Memory, network, keys, rights and the agent of such a device.
fn surroundings(facts: &mut Facts) {
    let names = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<String>>();
    facts.memory.total = Some(8 << 30);
    facts.memory.available = 6 << 30;
    facts.memory.killed = Some(0);
    facts.memory.waiting = Some(12);
    facts.power.temperatures = BTreeMap::from([("x86_pkg_temp".into(), 45_000)]);
    facts.network.addresses = names("192.168.1.7");
    facts.network.route = Some(true);
    let port =
        |address: &str| Port { address: address.into(), taken: Some(true), owner: "kith (pid 700)".into(), ours: true };
    facts.network.peer_port = port("0.0.0.0:7443");
    facts.network.api_port = port("0.0.0.0:6443");
    facts.network.buffers = Some((212_992, 212_992));
    facts.network.bridge = true;
    facts.network.forwarding = Some(true);
    facts.network.chains = Some(Ok(Vec::new()));
    facts.network.pod_network = "10.42.0.0/16".into();
    facts.network.resolvers = Some(Ok(names("192.168.1.1")));
    facts.network.name = "gate".into();
    let peer = |name: &str| Peer { name: name.into(), addresses: vec!["192.168.1.8:7443".into()], answered: Some(2) };
    facts.network.peers = Some(vec![peer("barn"), peer("shed")]);
    let file = |path: &str, mode| Private { path: path.into(), mode, owner: 0 };
    facts.identity.files =
        Some(vec![file("/var/lib/kith/identity", 0o700), file("/var/lib/kith/identity/device.json", 0o600)]);
    facts.identity.keys = Some(Ok(true));
    let fleet = Fleet { id: "f-1".into(), name: "gate".into(), members: 3, key_matches: Some(true), outcast: false };
    facts.identity.fleet = Some(Ok(Some(fleet)));
    facts.identity.certificate = Some(Ok(Certificate { from: 0, until: i64::MAX, ours: true }));
    facts.rights.missing = Some(Vec::new());
    facts.rights.no_new_privileges = Some(false);
    facts.rights.socket = Some(file("/run/kith/kith.sock", 0o600));
    facts.rights.socket_gid = Some(0);
    facts.rights.modules = names("apparmor");
    facts.rights.apparmor = "unconfined".into();
    facts.rights.lockdown = "none".into();
    facts.limits.files = Some(524_288);
    facts.limits.all_files = Some((2000, 9_000_000));
    facts.limits.pids = Some(4_194_304);
    facts.limits.threads = Some(60_000);
    facts.limits.watches = Some(60_000);
    facts.limits.watchers = Some(128);
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
    facts.limits.namespaces = kinds.into_iter().map(|kind| (kind.to_owned(), 30_000)).collect();
    facts.limits.entropy = Some(256);
    facts.agent.pid = Some(700);
    facts.agent.replaced = Some(false);
    let answer = Answer { version: "0.1.0".into(), quorum: true, leader: Some("gate".into()), problems: Vec::new() };
    facts.agent.answer = Some(Ok(answer));
    facts.agent.systemd = true;
    facts.agent.unit = Some(Unit {
        load: "loaded".into(),
        active: "active".into(),
        enabled: "enabled".into(),
        result: "success".into(),
        restarts: 0,
        watchdog: "4min".into(),
        kill_mode: "process".into(),
    });
    facts.agent.settings = Some(Ok("/etc/kith/agent.toml".into()));
}

/// Raspberry Pi OS on a Pi with 512 MiB, as it comes, before Kith was ever started.
fn raspberry_pi() -> Facts {
    let mut facts = debian();
    facts.model = "Raspberry Pi Zero 2 W Rev 1.0".into();
    facts.kernel.release = "6.1.21-v8+".into();
    facts.kernel.machine = "aarch64".into();
    facts.kernel.built_for = "aarch64".into();
    facts.kernel.pressure = Some(false);
    facts.cgroups.controllers = vec!["cpuset".into(), "cpu".into(), "io".into(), "pids".into()];
    facts.cgroups.disabled = vec!["memory".into()];
    facts.cgroups.command_line = "coherent_pool=1M cgroup_disable=memory console=tty1".into();
    facts.cgroups.command_file = Some("/boot/firmware/cmdline.txt".into());
    facts.cgroups.swap = None;
    facts.clock.hardware = Some(false);
    facts.clock.now = 12_000;
    facts.clock.synchronised = Some(false);
    facts.clock.services = vec!["systemd-timesyn".into()];
    facts.disk.device = "mmcblk0".into();
    facts.disk.card = Some(Card { kind: "SD".into(), name: "SC16G".into(), made: "03/2019".into(), ..Card::default() });
    facts.disk.syncs = Some(Ok(vec![80_000, 90_000, 1_700_000]));
    facts.memory.total = Some(430 << 20);
    facts.memory.available = 300 << 20;
    facts.memory.swap = 100 << 20;
    facts.memory.swap_free = 50 << 20;
    facts.memory.swap_devices = vec!["/var/swap".into()];
    facts.memory.waiting = None;
    facts.power.throttled = Some(0x5_0000);
    facts.power.temperatures = BTreeMap::from([("cpu-thermal".into(), 78_000)]);
    facts.network.name = String::new();
    facts.network.host_name = "raspberrypi".into();
    facts.network.peers = None;
    for port in [&mut facts.network.peer_port, &mut facts.network.api_port] {
        *port = Port { taken: Some(false), owner: String::new(), ours: false, ..port.clone() };
    }
    facts.identity.files = Some(Vec::new());
    facts.identity.keys = Some(Ok(false));
    facts.identity.fleet = Some(Ok(None));
    facts.identity.certificate = None;
    facts.store.log = Some(false);
    facts.store.state = Some(false);
    facts.rights.socket = None;
    facts.agent.pid = None;
    facts.agent.answer = Some(Err("No such file or directory".into()));
    facts.agent.unit.as_mut().unwrap().active = "inactive".into();
    facts.agent.unit.as_mut().unwrap().enabled = "disabled".into();
    facts
}

/// In a container without privileges, on a host with cgroups of version 1.
fn container() -> Facts {
    let mut facts = debian();
    let refused = || Try::Fails("Operation not permitted (os error 1)".into());
    facts.container = Some("docker".into());
    facts.kernel.modules = Some(false);
    facts.kernel.overlay = refused();
    facts.kernel.packet_filter = refused();
    facts.kernel.bridge = refused();
    facts.kernel.cable = refused();
    facts.kernel.sealed = refused();
    facts.cgroups.version = Version::V1;
    facts.cgroups.controllers =
        vec!["memory".into(), "cpu".into(), "pids".into(), "freezer".into(), "devices".into(), "blkio".into()];
    facts.cgroups.read_only = Some(true);
    facts.disk.kind = "overlay".into();
    facts.disk.device = "overlay".into();
    facts.disk.errors = None;
    facts.clock.synchronised = Some(false);
    facts.clock.services = Vec::new();
    facts.rights.missing = Some(vec!["CAP_NET_ADMIN".into(), "CAP_SYS_ADMIN".into()]);
    facts.rights.no_new_privileges = Some(true);
    facts.agent.systemd = false;
    facts.agent.unit = None;
    facts
}

fn finding(facts: &Facts, id: &str) -> Finding {
    examine(facts, &[id.to_owned()]).pop().unwrap_or_else(|| panic!("there is no check {id}"))
}

/// Checks, each with its outcome and parts of what is said.
fn expect(facts: &Facts, wanted: &[(&str, Outcome, &str)]) {
    for (id, outcome, part) in wanted {
        let found = finding(facts, id);
        assert_eq!(found.outcome, *outcome, "{found:?}");
        let said = format!("{} {}", found.seen, found.todo);
        assert!(said.contains(part), "{part:?} is not in {found:?}");
    }
}

#[test]
fn there_are_many_checks_with_names_of_their_own() {
    let checks: Vec<_> = GROUPS.iter().flat_map(|group| group.checks).collect();
    assert!(checks.len() >= 40, "{}", checks.len());
    let mut names: Vec<&str> = checks.iter().map(|check| check.id).chain(GROUPS.map(|group| group.name)).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(unknown(&["memory".into(), "disk-speed".into(), "frob".into()]), [&"frob".to_owned()]);
}

#[test]
fn a_device_that_is_well_is_told_so() {
    let findings = examine(&debian(), &[]);
    let wrong: Vec<_> =
        findings.iter().filter(|finding| !matches!(finding.outcome, Outcome::Ok | Outcome::Skipped)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(findings.iter().all(|finding| !finding.seen.is_empty()), "what was seen is always said");
}

#[test]
fn a_raspberry_pi_as_it_comes() {
    use Outcome::{Note, Ok, Problem, Skipped, Warning};
    expect(
        &raspberry_pi(),
        &[
            ("cgroup-memory", Problem, "cgroup_enable=memory cgroup_memory=1/' /boot/firmware/cmdline.txt"),
            ("cgroup-cpu", Ok, ""),
            ("cgroup-swap", Skipped, "cgroup-memory"),
            ("pressure", Note, "psi=1"),
            ("clock-year", Warning, "1970-01-01"),
            ("clock-synchronised", Note, "not yet"),
            ("clock-hardware", Note, "fake-hwclock"),
            ("disk-speed", Warning, "90.0 ms (at most 1700.0 ms): too slow for a voter"),
            ("disk-health", Note, "device_profiles = [\"sd-card\"]"),
            ("memory-free", Note, "tiny"),
            ("swap", Warning, "zram-tools"),
            ("temperature", Note, "78 °C"),
            ("power-supply", Warning, "too low since the device started"),
            ("host-name", Note, "kith init --name"),
            ("enrolled", Note, "kith init"),
            ("agent-runs", Problem, "systemctl start kith"),
            ("unit-enabled", Warning, "systemctl enable kith"),
            ("keys", Skipped, "kith join"),
            ("port-peers", Ok, "is free"),
            ("store", Ok, "none yet"),
        ],
    );
}

#[test]
fn the_page_on_operating_shows_what_a_raspberry_pi_is_told() {
    let page = include_str!("../../docs/operating.md");
    let shown = page.split("$ kith doctor\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    let facts = raspberry_pi();
    let mut seen = 0;
    for pair in lines.windows(2) {
        let Some((outcome, told)) = pair[0].split_once("  ").filter(|(outcome, _)| *outcome != "do:") else { continue };
        let (id, what) = told.split_once(": ").unwrap();
        let finding = finding(&facts, id);
        assert_eq!(format!("{:?}", finding.outcome).to_lowercase(), outcome, "{id}");
        assert_eq!((finding.seen.as_str(), format!("do: {}", finding.todo).as_str()), (what, pair[1]), "{id}");
        seen += 1;
    }
    assert_eq!(seen, 3, "{shown}");
}

#[test]
fn in_a_container_it_says_what_the_host_keeps_from_it() {
    use Outcome::{Note, Ok, Problem, Skipped, Warning};
    expect(
        &container(),
        &[
            ("container", Note, "docker"),
            ("kernel-modules", Skipped, "the host's"),
            ("overlayfs", Problem, "data_dir lies on an overlay itself"),
            ("nftables", Problem, "not permitted"),
            ("cgroup-writable", Problem, "by the container"),
            ("cgroup-freezer", Ok, ""),
            ("cgroup-devices", Ok, ""),
            ("devices-program", Skipped, "version 1"),
            ("disk-kind", Warning, "overlay"),
            ("capabilities", Problem, "CAP_NET_ADMIN, CAP_SYS_ADMIN"),
            ("no-new-privileges", Warning, "allowPrivilegeEscalation"),
            ("clock-synchronised", Skipped, "host's"),
            ("unit", Skipped, "no systemd"),
        ],
    );
}

#[test]
fn without_root_it_says_what_it_did_not_see_and_nothing_is_made_up() {
    let facts = Facts { agent: super::facts::Agent { systemd: true, ..Default::default() }, ..Facts::default() };
    for found in examine(&facts, &[]) {
        assert!(
            !matches!(found.outcome, Outcome::Problem | Outcome::Warning)
                || ["seccomp", "cgroup-version", "host-name", "addresses", "agent-runs"].contains(&found.id),
            "{found:?}"
        );
    }
    expect(&facts, &[("keys", Outcome::Skipped, "sudo kith doctor"), ("root", Outcome::Note, "sudo kith doctor")]);
}

#[test]
fn what_breaks_on_devices_in_the_field_is_named() {
    use Outcome::{Note, Problem, Warning};
    let mut facts = debian();
    facts.disk.read_only = Some(true);
    facts.disk.errors = Some(7);
    facts.disk.free = Some(1 << 20);
    facts.disk.inodes_free = Some(10);
    facts.disk.card = Some(Card { kind: "MMC".into(), life: vec![3, 11], spare: Some(1), ..Card::default() });
    facts.disk.written = Some(100 << 30);
    facts.kernel.modules = Some(false);
    facts.store.state = Some(false);
    facts.store.damaged = vec!["/var/lib/kith/damaged-1".into()];
    facts.store.images = Some((2, vec!["app:1: its layer 12ab is gone".into(), "b".into()]));
    facts.network.peer_port.owner = "k3s (pid 9)".into();
    facts.network.peer_port.ours = false;
    facts.network.peers.as_mut().unwrap()[1].answered = None;
    facts.network.forwarding = Some(false);
    facts.network.clashes = vec!["10.42.0.0/16 on wg0".into()];
    facts.network.resolvers = Some(Ok(Vec::new()));
    facts.network.host_name = "Gate_1".into();
    let chain = |hook: &str| Chain {
        family: "ip".into(),
        table: "filter".into(),
        name: hook.to_uppercase(),
        hook: hook.into(),
        drops: true,
        rules: 4,
    };
    facts.network.chains = Some(Ok(vec![chain("input"), chain("forward")]));
    facts.identity.files.as_mut().unwrap()[1].mode = 0o644;
    facts.identity.fleet.as_mut().unwrap().as_mut().unwrap().as_mut().unwrap().key_matches = Some(false);
    facts.agent.settings = Some(Err("1 mistake in the settings\n  agent.toml:3: nmae is not a setting".into()));
    facts.agent.unit.as_mut().unwrap().restarts = 40;
    facts.agent.unit.as_mut().unwrap().kill_mode = "control-group".into();
    facts.agent.replaced = Some(true);
    facts.agent.others = vec!["dockerd".into()];
    facts.rights.socket.as_mut().unwrap().mode = 0o666;
    facts.limits.namespaces.insert("user".into(), 0);
    facts.limits.namespaces.insert("net".into(), 10);
    expect(
        &facts,
        &[
            ("disk-writable", Problem, "after errors of the disk"),
            ("disk-errors", Problem, "fsck"),
            ("disk-free", Problem, "takes no writes"),
            ("disk-inodes", Problem, "du --inodes"),
            ("disk-health", Problem, "worn out"),
            ("disk-wear", Warning, "iotop"),
            ("kernel-modules", Warning, "reboot"),
            ("store", Problem, "the log is there without the state"),
            ("store-damage", Note, "cat /var/lib/kith/damaged-1/why.txt"),
            ("images", Problem, "its layer 12ab is gone, and 1 more"),
            ("port-peers", Problem, "k3s (pid 9) listens on 0.0.0.0:7443"),
            ("peers", Warning, "silent: shed (192.168.1.8:7443)"),
            ("forwarding", Warning, "sysctl -w net.ipv4.ip_forward=1"),
            ("pod-network", Problem, "10.42.0.0/16 on wg0"),
            ("resolvers", Warning, "names no server"),
            ("firewall-in", Note, "nft insert rule ip filter INPUT udp dport 7443 accept"),
            ("firewall-pods", Warning, "nft insert rule ip filter FORWARD iifname kith0 accept"),
            ("key-files", Problem, "chmod go= /var/lib/kith/identity/device.json"),
            ("key-matches", Problem, "--replace"),
            ("settings", Problem, "agent.toml:3"),
            ("unit-restarts", Warning, "40 times"),
            ("unit-kill-mode", Problem, "KillMode=process"),
            ("agent-version", Note, "systemctl restart kith"),
            ("other-platforms", Note, "dockerd"),
            ("socket", Problem, "chmod o="),
            ("user-namespaces", Note, "sysctl -w user.max_user_namespaces"),
            ("max-namespaces", Warning, "10 of net"),
        ],
    );
}

#[test]
fn an_agent_that_does_not_answer_and_a_fleet_without_a_quorum() {
    use Outcome::{Problem, Skipped, Warning};
    let mut facts = debian();
    facts.agent.answer = Some(Err("no answer within 4s".into()));
    expect(&facts, &[("agent-runs", Problem, "pid 700"), ("quorum", Skipped, ""), ("fleet-problems", Skipped, "")]);
    expect(&facts, &[("agent-runs", Problem, "systemctl restart kith")]);
    let unit = facts.agent.unit.take();
    expect(&facts, &[("agent-runs", Problem, "a new start (kith agent)")]);
    facts.agent.unit = unit;
    let problems = vec![("no quorum".to_owned(), "switch on d1".to_owned()), ("x".to_owned(), String::new())];
    let answer = Answer { version: "0.0.9".into(), problems, ..Answer::default() };
    facts.agent.answer = Some(Ok(answer));
    expect(
        &facts,
        &[
            ("agent-version", Outcome::Note, "the agent is 0.0.9, this program 0.1.0"),
            ("quorum", Problem, "no leader answers"),
            ("fleet-problems", Warning, "no quorum (and 1 more: kith status) switch on d1"),
        ],
    );
}

#[test]
fn facts_are_told_and_read_again() {
    let facts = raspberry_pi();
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
}

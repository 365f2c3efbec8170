//! Whether the kernel can do what containers need.

use super::facts::Try;
use super::{Check, Facts, Verdict};

/// The oldest kernel that Kith runs on.
const OLDEST: (u32, u32) = (5, 10);

/// Layers of images can be shown under other owners from it on.
const MAPPED: (u32, u32) = (5, 19);

/// What a container's namespaces are.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

pub(super) const CHECKS: &[Check] = &[
    Check { id: "kernel-version", title: "the kernel is new enough", judge: version },
    Check { id: "kernel-architecture", title: "this program fits the machine", judge: architecture },
    Check { id: "kernel-modules", title: "modules of the running kernel can be loaded", judge: modules },
    Check { id: "overlayfs", title: "images can be mounted (overlayfs)", judge: overlay },
    Check { id: "namespaces", title: "containers can be kept apart (namespaces)", judge: namespaces },
    Check {
        id: "user-namespaces",
        title: "pods can have users of their own (hostUsers: false)",
        judge: user_namespaces,
    },
    Check { id: "mapped-mounts", title: "mounts can have other owners (id-mapped mounts)", judge: mapped_mounts },
    Check { id: "seccomp", title: "system calls can be filtered (seccomp)", judge: seccomp },
    Check { id: "devices-program", title: "devices can be kept from containers (BPF)", judge: devices },
    Check { id: "nftables", title: "pods can be reached and reach out (nf_tables)", judge: packet_filter },
    Check { id: "bridge", title: "pods can have a network (bridge)", judge: bridge },
    Check { id: "veth", title: "pods can be plugged in (veth)", judge: cable },
    Check { id: "pidfd", title: "processes can be held (pidfd)", judge: pidfd },
    Check { id: "sealed-program", title: "containers can not write to Kith's program", judge: sealed },
    Check { id: "pressure", title: "shortages are measured (PSI)", judge: pressure },
];

/// Major and minor number of a release.
pub(super) fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn version(facts: &Facts) -> Verdict {
    let release = &facts.kernel.release;
    match numbers(release) {
        None => Verdict::skipped("the kernel does not say which it is"),
        Some(found) if found < OLDEST => Verdict::problem(
            format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "install a newer kernel: on Debian apt full-upgrade, then reboot",
        ),
        Some(_) => Verdict::ok(format!("Linux {release}")),
    }
}

fn architecture(facts: &Facts) -> Verdict {
    let (machine, built) = (facts.kernel.machine.as_str(), facts.kernel.built_for.as_str());
    match (machine, built) {
        ("", _) => Verdict::skipped("the kernel does not name its machine"),
        ("aarch64", "arm") => Verdict::note(
            "a 64-bit kernel runs the 32-bit program",
            "the program for aarch64 is faster, if the system is a 64-bit one",
        ),
        ("x86_64", "x86_64") | ("aarch64", "aarch64") => Verdict::ok(machine),
        (machine, "arm") if machine.starts_with("armv7") || machine.starts_with("armv8") => Verdict::ok(machine),
        _ => Verdict::warning(
            format!("the program was built for {built}, and the machine is {machine}"),
            "install the program of this architecture",
        ),
    }
}

fn modules(facts: &Facts) -> Verdict {
    let kernel = &facts.kernel;
    match kernel.modules {
        Some(false) if facts.container.is_none() => Verdict::warning(
            format!("/lib/modules/{} is not there: the kernel was upgraded since the last start", kernel.release),
            "reboot: until then no module can be loaded",
        ),
        _ if kernel.modules_sealed => Verdict::note(
            "the kernel loads no modules any more (kernel.modules_disabled)",
            "load before it is sealed: overlay br_netfilter bridge veth nf_tables nft_chain_nat nft_masq nft_fib_ipv4",
        ),
        Some(true) => Verdict::ok("/lib/modules has them"),
        Some(false) | None => Verdict::skipped("modules are the host's"),
    }
}

/// The verdict on something that was tried and is needed.
fn needed(facts: &Facts, tried: &Try, works: &str, todo: &str) -> Verdict {
    match tried {
        Try::Works => Verdict::ok(works),
        Try::Fails(why) => Verdict::problem(why, todo),
        Try::Untried(why) => {
            Verdict::new(super::Outcome::Skipped, why, if facts.root { "" } else { "sudo kith doctor" })
        }
        Try::Unknown => Verdict::skipped("it was not tried"),
    }
}

fn overlay(facts: &Facts) -> Verdict {
    let todo = match facts.disk.kind.as_str() {
        "overlay" => {
            "data_dir lies on an overlay itself, and they do not stack: set data_dir to a folder on a real disk"
        }
        "nfs" | "nfs4" | "cifs" | "vfat" | "exfat" | "fuse" => "set data_dir to a folder on ext4, xfs, btrfs or f2fs",
        _ => "modprobe overlay; if there is no such module, the kernel needs CONFIG_OVERLAY_FS",
    };
    needed(facts, &facts.kernel.overlay, "an overlay was mounted under data_dir", todo)
}

fn namespaces(facts: &Facts) -> Verdict {
    let Some(found) = &facts.kernel.namespaces else { return Verdict::unseen(facts, "/proc/self/ns") };
    let missing: Vec<&str> = NAMESPACES.into_iter().filter(|name| !found.iter().any(|has| has == name)).collect();
    if missing.is_empty() {
        return Verdict::ok(found.join(", "));
    }
    Verdict::problem(
        format!("the kernel has no namespaces of the kind {}", missing.join(", ")),
        "use a kernel with CONFIG_NAMESPACES and all below it: those of distributions have them",
    )
}

fn user_namespaces(facts: &Facts) -> Verdict {
    let there = facts.kernel.namespaces.as_ref().map(|found| found.iter().any(|name| name == "user"));
    match (there, facts.limits.namespaces.get("user")) {
        (Some(false), _) => Verdict::note(
            "the kernel has no user namespaces: pods with hostUsers: false do not start",
            "use a kernel with CONFIG_USER_NS",
        ),
        (_, Some(0)) => Verdict::note(
            "user.max_user_namespaces is 0: pods with hostUsers: false do not start",
            "sysctl -w user.max_user_namespaces=4096, and the same in /etc/sysctl.d/60-kith.conf",
        ),
        (_, Some(most)) => Verdict::ok(format!("up to {most}")),
        (_, None) => Verdict::unseen(facts, "user.max_user_namespaces"),
    }
}

fn mapped_mounts(facts: &Facts) -> Verdict {
    match numbers(&facts.kernel.release) {
        None => Verdict::skipped("the kernel does not say which it is"),
        Some(found) if found < MAPPED => Verdict::note(
            format!("Linux {} shows images under their own owners only", facts.kernel.release),
            "Linux 5.19 or newer, if pods are to have users of their own (hostUsers: false)",
        ),
        Some(_) => Verdict::ok("the kernel is new enough"),
    }
}

fn seccomp(facts: &Facts) -> Verdict {
    let todo = "use a kernel with CONFIG_SECCOMP_FILTER: Kith starts no container without its filter";
    match &facts.kernel.seccomp {
        None => Verdict::problem("the kernel has no filters of system calls", todo),
        Some(actions) if ["errno", "kill_process", "allow"].iter().all(|a| actions.iter().any(|has| has == a)) => {
            Verdict::ok(actions.join(" "))
        }
        Some(actions) => Verdict::problem(format!("filters can only {}", actions.join(" ")), todo),
    }
}

fn devices(facts: &Facts) -> Verdict {
    if facts.cgroups.version != super::facts::Version::V2 {
        return Verdict::skipped("cgroups of version 1 have a controller for devices");
    }
    let todo = "use a kernel with CONFIG_CGROUP_BPF, and without kernel.lockdown; before Linux 5.11, let the agent lock memory (LimitMEMLOCK=infinity): no container starts otherwise";
    needed(facts, &facts.kernel.devices_program, "the kernel took the program that decides on devices", todo)
}

fn packet_filter(facts: &Facts) -> Verdict {
    let todo = "modprobe nf_tables nft_chain_nat nft_masq nft_fib_ipv4 nft_ct; without them the kernel needs CONFIG_NF_TABLES_INET and its parts";
    needed(facts, &facts.kernel.packet_filter, "all rules of Kith were taken, in a namespace of their own", todo)
}

fn bridge(facts: &Facts) -> Verdict {
    let todo = "modprobe bridge; without it pods can only have hostNetwork: true";
    needed(facts, &facts.kernel.bridge, "a bridge was made, in a namespace of its own", todo)
}

fn cable(facts: &Facts) -> Verdict {
    let todo = "modprobe veth; without it pods can only have hostNetwork: true";
    needed(facts, &facts.kernel.cable, "a cable was laid, in a namespace of its own", todo)
}

fn pidfd(facts: &Facts) -> Verdict {
    needed(
        facts,
        &facts.kernel.pidfd,
        "the kernel has them",
        "use Linux 5.10 or newer, and no filter that forbids pidfd_open",
    )
}

fn sealed(facts: &Facts) -> Verdict {
    let todo = "let the agent make mounts (CAP_SYS_ADMIN, and no filter that forbids mount and open_tree): without it no container starts";
    needed(facts, &facts.kernel.sealed, "a view of it for reading only was made", todo)
}

fn pressure(facts: &Facts) -> Verdict {
    match facts.kernel.pressure {
        Some(true) => Verdict::ok("/proc/pressure is there"),
        Some(false) => Verdict::note(
            "the kernel does not measure pressure: shortages are seen later",
            "add psi=1 to the kernel's command line",
        ),
        None => Verdict::unseen(facts, "/proc/pressure"),
    }
}

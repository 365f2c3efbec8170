//! Whether containers can be limited.

use super::facts::Version;
use super::{Check, Facts, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "cgroup-version", title: "control groups are mounted", judge: version },
    Check { id: "cgroup-writable", title: "control groups can be made", judge: writable },
    Check { id: "cgroup-memory", title: "memory can be limited", judge: memory },
    Check { id: "cgroup-cpu", title: "CPU can be limited", judge: cpu },
    Check { id: "cgroup-pids", title: "processes can be limited", judge: pids },
    Check { id: "cgroup-io", title: "disk traffic can be limited", judge: io },
    Check { id: "cgroup-freezer", title: "containers can be frozen", judge: freezer },
    Check { id: "cgroup-devices", title: "devices can be kept from containers", judge: devices },
    Check { id: "cgroup-swap", title: "swap can be limited", judge: swap },
];

fn version(facts: &Facts) -> Verdict {
    match facts.cgroups.version {
        Version::V2 => Verdict::ok("version 2"),
        Version::V1 => Verdict::ok("version 1"),
        Version::Hybrid => Verdict::ok("version 1, with a tree of version 2 beside it"),
        Version::None => Verdict::problem(
            "no control groups are mounted under /sys/fs/cgroup",
            "let systemd be the first program, or mount them: mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn writable(facts: &Facts) -> Verdict {
    match facts.cgroups.read_only {
        Some(false) => Verdict::ok("they are mounted for writing"),
        Some(true) if facts.container.is_some() => Verdict::problem(
            "they are mounted for reading only, by the container in which Kith is",
            "run Kith on the device itself, or give its container /sys/fs/cgroup for writing",
        ),
        Some(true) => Verdict::problem("they are mounted for reading only", "mount -o remount,rw /sys/fs/cgroup"),
        None => Verdict::skipped("there are none"),
    }
}

fn has(facts: &Facts, name: &str) -> bool {
    facts.cgroups.controllers.iter().any(|has| has == name)
}

/// A controller that is not there: left off, or not in the kernel.
fn absent(facts: &Facts, name: &str, otherwise: &str, option: &str) -> Verdict {
    let cgroups = &facts.cgroups;
    if cgroups.version == Version::None {
        return Verdict::skipped("no control groups are mounted");
    }
    if cgroups.disabled.iter().any(|off| off == name) || cgroups.command_line.contains("cgroup_disable") {
        let file = cgroups.command_file.as_deref().unwrap_or("the kernel's command line");
        return Verdict::problem(
            format!("the {name} controller is switched off: {otherwise}"),
            format!("take cgroup_disable={name} out of {file} and reboot"),
        );
    }
    Verdict::problem(format!("there is no {name} controller: {otherwise}"), format!("use a kernel with {option}"))
}

fn memory(facts: &Facts) -> Verdict {
    if has(facts, "memory") {
        return Verdict::ok("the controller is there");
    }
    let cgroups = &facts.cgroups;
    let verdict = absent(
        facts,
        "memory",
        "no container can be limited, and one that leaks takes the device down",
        "CONFIG_MEMCG",
    );
    // Firmware of a Raspberry Pi adds cgroup_disable=memory before what the file says.
    let (Some(file), true) = (&cgroups.command_file, facts.model.contains("Raspberry Pi")) else { return verdict };
    let edit = format!("sudo sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' {file} && sudo reboot");
    Verdict::problem(
        "Raspberry Pi OS leaves the memory controller off: no container can be limited, and one that leaks takes the device down",
        format!("add it to the one line of {file}: {edit}"),
    )
}

fn cpu(facts: &Facts) -> Verdict {
    if has(facts, "cpu") {
        return Verdict::ok("the controller is there");
    }
    absent(facts, "cpu", "requests and limits of CPU mean nothing", "CONFIG_CGROUP_SCHED and CONFIG_CFS_BANDWIDTH")
}

fn pids(facts: &Facts) -> Verdict {
    if has(facts, "pids") {
        return Verdict::ok("the controller is there");
    }
    absent(facts, "pids", "one container can take all processes of the device", "CONFIG_CGROUP_PIDS")
}

fn io(facts: &Facts) -> Verdict {
    if has(facts, "io") || has(facts, "blkio") {
        return Verdict::ok("the controller is there");
    }
    let mut verdict = absent(facts, "io", "disk traffic of containers can not be limited", "CONFIG_BLK_CGROUP");
    if verdict.outcome == super::Outcome::Problem {
        verdict.outcome = super::Outcome::Note;
    }
    verdict
}

fn freezer(facts: &Facts) -> Verdict {
    match facts.cgroups.version {
        Version::None => Verdict::skipped("no control groups are mounted"),
        Version::V2 => Verdict::ok("every group of version 2 can be"),
        _ if has(facts, "freezer") => Verdict::ok("the controller is there"),
        _ => absent(facts, "freezer", "containers can not be ended as a whole", "CONFIG_CGROUP_FREEZER"),
    }
}

fn devices(facts: &Facts) -> Verdict {
    match facts.cgroups.version {
        Version::None => Verdict::skipped("no control groups are mounted"),
        Version::V2 => Verdict::skipped("version 2 does it by a program: see devices-program"),
        _ if has(facts, "devices") => Verdict::ok("the controller is there"),
        _ => absent(facts, "devices", "containers could open every device", "CONFIG_CGROUP_DEVICE"),
    }
}

fn swap(facts: &Facts) -> Verdict {
    match facts.cgroups.swap {
        _ if !has(facts, "memory") => Verdict::skipped("memory can not be limited at all: see cgroup-memory"),
        _ if facts.memory.swap == 0 => Verdict::skipped("there is no swap"),
        Some(true) => Verdict::ok("a container's limit counts swap"),
        Some(false) => Verdict::note(
            "swap is not counted: a container may push as much of itself into swap as it likes",
            "add swapaccount=1 to the kernel's command line and reboot",
        ),
        None => Verdict::unseen(facts, "whether swap is counted"),
    }
}

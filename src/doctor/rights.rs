//! Whether the agent may do what it has to.

use super::agent::restart;
use super::{Check, Facts, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "root", title: "root looks", judge: root },
    Check { id: "capabilities", title: "the agent has its capabilities", judge: capabilities },
    Check { id: "no-new-privileges", title: "containers may be given theirs", judge: no_new_privileges },
    Check { id: "socket", title: "the agent's socket is for whom it should be", judge: socket },
    Check { id: "container", title: "Kith runs on the device itself", judge: container },
    Check { id: "security-module", title: "the security module lets it work", judge: module },
    Check { id: "lockdown", title: "the kernel is not locked down", judge: lockdown },
];

fn root(facts: &Facts) -> Verdict {
    if facts.root {
        Verdict::ok("all checks see what they need")
    } else {
        Verdict::note(
            "other users do not see keys, ports' owners, other programs and the packet filter",
            "sudo kith doctor",
        )
    }
}

fn capabilities(facts: &Facts) -> Verdict {
    match &facts.rights.missing {
        None => Verdict::unseen(facts, "the agent's capabilities"),
        Some(_) if !facts.root && facts.agent.pid.is_none() => Verdict::unseen(facts, "what an agent would have"),
        Some(missing) if missing.is_empty() => Verdict::ok("all that it needs"),
        Some(missing) => Verdict::problem(
            format!("without {}, pods can not be run", missing.join(", ")),
            "systemctl cat kith: no CapabilityBoundingSet=, no User=; in a container: --privileged",
        ),
    }
}

fn no_new_privileges(facts: &Facts) -> Verdict {
    match facts.rights.no_new_privileges {
        None => Verdict::unseen(facts, "the agent's status"),
        Some(false) => Verdict::ok("the agent hands no restriction on"),
        Some(true) => Verdict::warning(
            "the agent can gain no privileges, and hands that on: containers with allowPrivilegeEscalation do not get theirs",
            "systemctl cat kith: no NoNewPrivileges=, no SystemCallFilter=, no User=",
        ),
    }
}

fn socket(facts: &Facts) -> Verdict {
    let rights = &facts.rights;
    if let Some((name, None)) = &rights.socket_group {
        return Verdict::problem(
            format!("socket_group in agent.toml is {name}, and there is no such group"),
            format!("groupadd {name}, then {}", restart(facts)),
        );
    }
    let Some(socket) = &rights.socket else {
        return if facts.agent.pid.is_some() {
            Verdict::note("the agent runs without one", "it makes one once the device is in a fleet")
        } else {
            Verdict::skipped("no agent runs")
        };
    };
    let mode = socket.mode & 0o777;
    if mode & 0o007 != 0 {
        return Verdict::problem(
            format!("{} has mode {mode:04o}: every user of this device can do everything", socket.path),
            format!("chmod o= {}; {} makes it anew", socket.path, restart(facts)),
        );
    }
    let wanted = rights.socket_group.as_ref().and_then(|(_, gid)| *gid);
    match (mode & 0o070 != 0, wanted) {
        (true, Some(gid)) if rights.socket_gid == Some(gid) => {
            Verdict::ok(format!("root's and the group's, {mode:04o}"))
        }
        (true, _) => Verdict::warning(
            format!(
                "{} is open to group {}, which the settings do not name",
                socket.path,
                rights.socket_gid.unwrap_or(0)
            ),
            format!("{} makes it anew", restart(facts)),
        ),
        (false, Some(_)) => Verdict::warning(
            "it is root's alone, although socket_group names a group",
            format!("{} makes it anew", restart(facts)),
        ),
        (false, None) => Verdict::ok(format!("root's alone, {mode:04o}")),
    }
}

fn container(facts: &Facts) -> Verdict {
    match &facts.container {
        None => Verdict::ok("it does"),
        Some(kind) => Verdict::note(
            format!("this is a container ({kind}): what pods may use, its host decides"),
            "it needs all privileges, /sys/fs/cgroup for writing, and data_dir on a volume",
        ),
    }
}

fn module(facts: &Facts) -> Verdict {
    let rights = &facts.rights;
    if rights.selinux == Some(true) {
        return Verdict::warning(
            "SELinux enforces, and Kith sets no labels: containers may be refused their files",
            "ausearch -m avc -ts recent tells what was refused; semanage permissive -a unconfined_service_t",
        );
    }
    let confined = !rights.apparmor.is_empty() && !rights.apparmor.starts_with("unconfined");
    if confined {
        return Verdict::warning(
            format!("AppArmor confines the agent: {}", rights.apparmor),
            "aa-disable that profile, or let it mount, change namespaces and write cgroups",
        );
    }
    match (rights.modules.as_slice(), rights.selinux) {
        ([], None) => Verdict::ok("there is none"),
        (modules, _) => Verdict::ok(format!("{}: none confines the agent", modules.join(", "))),
    }
}

fn lockdown(facts: &Facts) -> Verdict {
    match facts.rights.lockdown.as_str() {
        "" => Verdict::skipped("the kernel does not tell"),
        "none" => Verdict::ok("it is not"),
        "integrity" => Verdict::ok("integrity: modules must be signed, as those of the distribution are"),
        level => Verdict::note(
            format!("it is, for {level}: programs for the kernel may be refused"),
            "see devices-program; lockdown=integrity on the kernel's command line is enough for Kith",
        ),
    }
}

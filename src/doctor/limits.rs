//! Whether the kernel gives enough of what it counts.

use super::{Check, Facts, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "open-files", title: "the agent may open enough files", judge: files },
    Check { id: "all-open-files", title: "the system has files left to open", judge: all_files },
    Check { id: "pids", title: "there are enough process ids", judge: pids },
    Check { id: "threads", title: "there may be enough threads", judge: threads },
    Check { id: "watches", title: "programs may watch enough files (inotify)", judge: watches },
    Check { id: "max-namespaces", title: "there may be enough namespaces", judge: namespaces },
    Check { id: "entropy", title: "there is chance for keys", judge: entropy },
];

/// A limit that is better at `good` or more.
fn at_least(facts: &Facts, value: Option<u64>, good: u64, what: &str, todo: &str) -> Verdict {
    match value {
        None => Verdict::unseen(facts, what),
        Some(value) if value < good => Verdict::note(format!("{what} is {value}"), todo),
        Some(value) => Verdict::ok(format!("{what} is {value}")),
    }
}

fn files(facts: &Facts) -> Verdict {
    let todo = "LimitNOFILE=524288 in the unit, as systemd/kith.service has it";
    if facts.agent.pid.is_none() {
        return Verdict::skipped("no agent runs; its unit sets the limit");
    }
    at_least(facts, facts.limits.files, 4096, "the agent's limit of open files", todo)
}

fn all_files(facts: &Facts) -> Verdict {
    match facts.limits.all_files {
        None => Verdict::unseen(facts, "fs.file-nr"),
        Some((used, most)) if used > most / 10 * 9 => Verdict::warning(
            format!("{used} of {most} are open"),
            "sysctl -w fs.file-max=1000000; lsof tells who has them",
        ),
        Some((used, most)) => Verdict::ok(format!("{used} of {most} are open")),
    }
}

fn pids(facts: &Facts) -> Verdict {
    at_least(facts, facts.limits.pids, 32_768, "kernel.pid_max", "sysctl -w kernel.pid_max=65536")
}

fn threads(facts: &Facts) -> Verdict {
    at_least(facts, facts.limits.threads, 4096, "kernel.threads-max", "sysctl -w kernel.threads-max=16384")
}

fn watches(facts: &Facts) -> Verdict {
    let todo = "sysctl -w fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=512, and the same in /etc/sysctl.d/60-kith.conf: programs in pods share them";
    match (facts.limits.watches, facts.limits.watchers) {
        (Some(watches), Some(watchers)) => {
            let seen = format!("{watches} files by {watchers} watchers of one user");
            if watches < 8192 || watchers < 128 { Verdict::note(seen, todo) } else { Verdict::ok(seen) }
        }
        _ => Verdict::unseen(facts, "fs.inotify"),
    }
}

fn namespaces(facts: &Facts) -> Verdict {
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let limits = &facts.limits.namespaces;
    if limits.is_empty() {
        return Verdict::unseen(facts, "user.max_..._namespaces");
    }
    let few: Vec<String> = kinds
        .iter()
        .filter_map(|kind| limits.get(*kind).filter(|most| **most < 256).map(|most| format!("{most} of {kind}")))
        .collect();
    if few.is_empty() {
        return Verdict::ok("hundreds of each kind");
    }
    let todo = "sysctl -w user.max_net_namespaces=4096, and so on for the others";
    Verdict::warning(format!("there may be only {}", few.join(", ")), todo)
}

fn entropy(facts: &Facts) -> Verdict {
    match facts.limits.entropy {
        None => Verdict::unseen(facts, "the kernel's entropy"),
        Some(bits) if bits < 128 => Verdict::warning(
            format!("{bits} bits: making keys may wait"),
            "apt install rng-tools5; wait a minute after the first boot",
        ),
        Some(bits) => Verdict::ok(format!("{bits} bits")),
    }
}

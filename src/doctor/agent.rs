//! Whether the agent runs as it should, and nothing stands in its way.

use super::{Check, Facts, Verdict};

/// Restarts by systemd that are more than bad luck.
const RESTARTS: u64 = 5;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "settings", title: "the settings are good", judge: settings },
    Check { id: "agent-runs", title: "the agent runs and answers", judge: agent },
    Check { id: "agent-version", title: "the agent is this release", judge: version },
    Check { id: "unit", title: "systemd looks after the agent", judge: unit },
    Check { id: "unit-enabled", title: "the agent starts with the device", judge: enabled },
    Check { id: "unit-restarts", title: "the agent does not end by itself", judge: restarts },
    Check { id: "watchdog", title: "an agent that hangs is started again", judge: watchdog },
    Check { id: "unit-kill-mode", title: "containers outlive the agent", judge: kill_mode },
    Check { id: "other-platforms", title: "no other platform takes what Kith needs", judge: others },
];

fn settings(facts: &Facts) -> Verdict {
    match &facts.agent.settings {
        None => Verdict::skipped("they were not read"),
        Some(Ok(file)) => Verdict::ok(file.clone()),
        Some(Err(why)) => Verdict::problem(
            why.clone(),
            "kith agent --check, until it says ok; the other checks go by the defaults meanwhile",
        ),
    }
}

fn agent(facts: &Facts) -> Verdict {
    let agent = &facts.agent;
    match (&agent.answer, agent.pid) {
        (Some(Ok(answer)), _) => Verdict::ok(format!("Kith {} answers", answer.version)),
        (_, Some(pid)) if matches!(&facts.identity.fleet, Some(Ok(None))) => {
            Verdict::ok(format!("it runs (pid {pid}), and waits for kith init or kith join TOKEN"))
        }
        (Some(Err(why)), Some(pid)) if why.contains("ermission denied") => {
            Verdict::skipped(format!("it runs (pid {pid}); only root may ask it: {why}"))
        }
        (Some(Err(why)), Some(pid)) => Verdict::problem(
            format!("it runs (pid {pid}) and does not answer: {why}"),
            format!("{}; {}, containers go on", log(facts), restart(facts)),
        ),
        (Some(Err(why)), None) if !facts.root && why.contains("ermission denied") => {
            Verdict::unseen(facts, "whether an agent runs")
        }
        (_, _) if loaded(facts).is_ok() => {
            Verdict::problem("it does not run", "systemctl start kith; journalctl -u kith -n 50 tells why it ended")
        }
        _ => Verdict::problem("it does not run", "kith agent starts it, and says what is in its way"),
    }
}

fn version(facts: &Facts) -> Verdict {
    let agent = &facts.agent;
    match &agent.answer {
        Some(Ok(answer)) if answer.version != facts.version => Verdict::note(
            format!("the agent is {}, this program {}", answer.version, facts.version),
            format!("{} takes the program that is installed; containers go on", restart(facts)),
        ),
        Some(Ok(_)) if agent.replaced == Some(true) => Verdict::note(
            "the program was replaced on the disk since the agent started",
            format!("{} takes the new one; containers go on", restart(facts)),
        ),
        Some(Ok(answer)) => Verdict::ok(answer.version.clone()),
        _ => Verdict::skipped("no agent answers here"),
    }
}

/// What starts the agent again: systemd restarts only one that it started itself.
pub(super) fn restart(facts: &Facts) -> &'static str {
    let own = loaded(facts).is_ok_and(|unit| !matches!(unit.active.as_str(), "inactive" | "failed"));
    if own { "systemctl restart kith" } else { "its end (kill) and a new start (kith agent)" }
}

/// What shows the agent's log.
pub(super) fn log(facts: &Facts) -> &'static str {
    if loaded(facts).is_ok() { "journalctl -u kith -n 50" } else { "its log tells why" }
}

/// The unit, where there is a systemd with one.
fn loaded(facts: &Facts) -> Result<&super::facts::Unit, Verdict> {
    let agent = &facts.agent;
    match &agent.unit {
        _ if !agent.systemd => Err(Verdict::skipped("this system has no systemd")),
        None => Err(Verdict::unseen(facts, "what systemd says")),
        Some(unit) if unit.load != "loaded" => Err(Verdict::skipped("the unit is not installed: see unit")),
        Some(unit) => Ok(unit),
    }
}

fn unit(facts: &Facts) -> Verdict {
    let agent = &facts.agent;
    let unit = match loaded(facts) {
        Ok(unit) => unit,
        Err(_) if agent.systemd && agent.unit.is_some() => {
            return Verdict::note(
                "there is no unit kith: whoever started the agent must start it again",
                "install the package, or systemd/kith.service: make install",
            );
        }
        Err(verdict) => return verdict,
    };
    match unit.active.as_str() {
        "active" | "reloading" => Verdict::ok(unit.active.clone()),
        "activating" => Verdict::warning(
            format!("it is being started; it ended before with {}", unit.result),
            "journalctl -u kith -n 50",
        ),
        other if agent.pid.is_some() => Verdict::note(
            format!("the unit is {other}, and an agent runs beside it"),
            "systemctl start kith, once that one is stopped",
        ),
        other => Verdict::problem(
            format!("the unit is {other} ({})", unit.result),
            "systemctl start kith; journalctl -u kith -n 50 tells why it ended",
        ),
    }
}

fn enabled(facts: &Facts) -> Verdict {
    match loaded(facts) {
        Err(verdict) => verdict,
        Ok(unit) if unit.enabled.starts_with("enabled") || unit.enabled == "static" => {
            Verdict::ok(unit.enabled.clone())
        }
        Ok(unit) => Verdict::warning(
            format!("the unit is {}: after a reboot, no pod runs", unit.enabled),
            "systemctl enable kith",
        ),
    }
}

fn restarts(facts: &Facts) -> Verdict {
    match loaded(facts) {
        Err(verdict) => verdict,
        Ok(unit) if unit.result == "watchdog" => Verdict::warning(
            "it hung, and was started again",
            "journalctl -u kith | grep -B 20 -i watchdog; is the disk very slow?",
        ),
        Ok(unit) if unit.restarts >= RESTARTS => Verdict::warning(
            format!("systemd started it again {} times, lastly after {}", unit.restarts, unit.result),
            "journalctl -u kith | grep -A 3 error: tells why",
        ),
        Ok(unit) => Verdict::ok(format!("{} restarts by systemd", unit.restarts)),
    }
}

fn watchdog(facts: &Facts) -> Verdict {
    match loaded(facts) {
        Err(verdict) => verdict,
        Ok(unit) if matches!(unit.watchdog.as_str(), "" | "0" | "infinity") => {
            Verdict::note("the unit has no watchdog", "WatchdogSec=4min in it, as systemd/kith.service has it")
        }
        Ok(unit) => Verdict::ok(format!("after {}", unit.watchdog)),
    }
}

fn kill_mode(facts: &Facts) -> Verdict {
    match loaded(facts) {
        Err(verdict) => verdict,
        Ok(unit) if unit.kill_mode == "process" => Verdict::ok("the unit stops the agent alone"),
        Ok(unit) => Verdict::problem(
            format!("the unit has KillMode={}: its stop ends containers' shims too", unit.kill_mode),
            "KillMode=process in it, as systemd/kith.service has it",
        ),
    }
}

fn others(facts: &Facts) -> Verdict {
    let others = &facts.agent.others;
    if others.is_empty() {
        return Verdict::ok("none runs");
    }
    let routes =
        others.iter().any(|name| ["docker", "k3s", "kubelet", "kube-proxy"].iter().any(|other| name.contains(other)));
    Verdict::note(
        format!("{} run here too", others.join(", ")),
        if routes {
            "they get on; see firewall-pods, and keep their address ranges apart from pod_network"
        } else {
            "they get on"
        },
    )
}

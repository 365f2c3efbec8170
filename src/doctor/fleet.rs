//! Whether this device has its keys and belongs to a fleet that works.

use super::{Check, Facts, Verdict};

/// Bits of a mode that let others in.
const OTHERS: u32 = 0o077;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "enrolled", title: "the device is in a fleet", judge: enrolled },
    Check { id: "quorum", title: "the fleet can write", judge: quorum },
    Check { id: "fleet-problems", title: "the fleet complains of nothing", judge: problems },
    Check { id: "key-files", title: "keys are root's alone", judge: files },
    Check { id: "keys", title: "keys can be read", judge: keys },
    Check { id: "key-matches", title: "the fleet knows this key", judge: key_matches },
    Check { id: "certificate", title: "the certificate of the HTTPS API holds", judge: certificate },
];

fn enrolled(facts: &Facts) -> Verdict {
    match &facts.identity.fleet {
        None => Verdict::unseen(facts, "the keys' folder"),
        Some(Err(why)) => {
            Verdict::problem(why.clone(), "the message says what to do; kith leave --force forgets the fleet here")
        }
        Some(Ok(None)) => Verdict::note("it is in none", "kith init founds one, kith join TOKEN enters one"),
        Some(Ok(Some(fleet))) if fleet.outcast => Verdict::warning(
            format!("{} of fleet {} must be let in again before it takes part", fleet.name, fleet.id),
            "start the agent where it reaches another device: it asks by itself",
        ),
        Some(Ok(Some(fleet))) => {
            Verdict::ok(format!("{} of fleet {}, {} members", fleet.name, fleet.id, fleet.members))
        }
    }
}

fn quorum(facts: &Facts) -> Verdict {
    match &facts.agent.answer {
        Some(Ok(answer)) if answer.quorum => {
            Verdict::ok(format!("{} leads", answer.leader.as_deref().unwrap_or("somebody")))
        }
        Some(Ok(_)) => Verdict::problem(
            "no leader answers with a quorum: pods run on, nothing can be changed",
            "kith status says whom it waits for",
        ),
        _ => Verdict::skipped("no agent answers here"),
    }
}

fn problems(facts: &Facts) -> Verdict {
    let Some(Ok(answer)) = &facts.agent.answer else { return Verdict::skipped("no agent answers here") };
    match answer.problems.first() {
        None => Verdict::ok("of nothing"),
        Some((what, todo)) => {
            let more = answer.problems.len() - 1;
            let more = if more > 0 { format!(" (and {more} more: kith status)") } else { String::new() };
            Verdict::warning(format!("{what}{more}"), todo.clone())
        }
    }
}

fn files(facts: &Facts) -> Verdict {
    let Some(files) = &facts.identity.files else { return Verdict::unseen(facts, "the keys' folder") };
    if files.is_empty() {
        return Verdict::skipped("there are none yet");
    }
    if let Some(open) = files.iter().find(|file| file.mode & OTHERS != 0) {
        return Verdict::problem(
            format!("{} has mode {:04o}: the agent refuses keys that others can read", open.path, open.mode),
            format!("chmod go= {}", open.path),
        );
    }
    if let Some(strange) = files.iter().find(|file| file.owner != 0) {
        return Verdict::warning(
            format!("{} belongs to user {}", strange.path, strange.owner),
            format!("chown root:root {}", strange.path),
        );
    }
    Verdict::ok(format!("{} files and folders", files.len()))
}

fn keys(facts: &Facts) -> Verdict {
    match &facts.identity.keys {
        None => Verdict::unseen(facts, "the keys"),
        Some(Ok(true)) => Verdict::ok("they can"),
        Some(Ok(false)) => Verdict::skipped("there are none yet: kith init or kith join TOKEN makes them"),
        Some(Err(why)) => Verdict::problem(
            why.clone(),
            "restore it from a backup of this device, or move it away and join again as a new device",
        ),
    }
}

fn key_matches(facts: &Facts) -> Verdict {
    let Some(Ok(Some(fleet))) = &facts.identity.fleet else { return Verdict::skipped("the device is in no fleet") };
    match fleet.key_matches {
        Some(true) => Verdict::ok("it is the one that the others trust"),
        Some(false) => Verdict::problem(
            "the keys of this device are not those of its member: other devices refuse it",
            "restore identity/device.json; or kith leave --force, then kith join TOKEN --replace --name NAME",
        ),
        None => Verdict::unseen(facts, "the keys"),
    }
}

fn certificate(facts: &Facts) -> Verdict {
    match &facts.identity.certificate {
        None => Verdict::skipped("there is none yet: a voter signs it once the device is in a fleet"),
        Some(Err(why)) => Verdict::warning(
            why.clone(),
            "remove identity/serving.json in data_dir and restart the agent: a new one is signed",
        ),
        Some(Ok(certificate)) if !certificate.ours => Verdict::warning(
            "it is of another key: kubectl does not get through",
            "remove identity/serving.json in data_dir and restart the agent: a new one is signed",
        ),
        Some(Ok(certificate)) if facts.clock.now > certificate.until => Verdict::warning(
            "its time is over",
            "remove identity/serving.json in data_dir and restart the agent: a new one is signed",
        ),
        Some(Ok(certificate)) if facts.clock.now < certificate.from => {
            Verdict::warning("by this device's clock its time has not begun", "timedatectl set-ntp true sets the clock")
        }
        Some(Ok(_)) => Verdict::ok("it is of this device's key, and in its time"),
    }
}

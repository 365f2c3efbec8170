//! `kith status`: one screen about the fleet: who leads, who votes, how the devices are, what is
//! wrong and what to do about it.

use std::fmt::Write as _;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, Format, Paint, Table, count, raw, say, span};
use crate::api::fleet::{self, DeviceRole, DeviceStatus, FleetStatus};

/// Knowledge older than this is old enough to say so, in milliseconds.
const OLD_MS: u64 = 3_000;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(crate) async fn run(args: &StatusArgs, client: &Client) -> Result<(), Failure> {
    let status: FleetStatus = client.get(fleet::STATUS).await?;
    match args.output {
        Some(Format::Json) => output::json(&status),
        Some(Format::Yaml) => output::yaml(&status),
        Some(Format::Name) => status.devices.iter().try_for_each(|device| say!("{}", device.name)),
        None | Some(Format::Wide) => {
            raw(render(&status, args.output == Some(Format::Wide), Paint::stdout()).as_bytes())
        }
    }
}

/// The whole screen.
pub(crate) fn render(status: &FleetStatus, wide: bool, paint: Paint) -> String {
    let mut text = String::new();
    if status.fleet.is_empty() {
        _ = writeln!(text, "This device is in no fleet yet: kith init founds one, kith join TOKEN enters one.");
        return text;
    }
    let ready = status.devices.iter().filter(|device| device.ready).count();
    let devices = count(status.devices.len(), "device");
    let all =
        if ready == status.devices.len() { paint.green("all ready") } else { paint.yellow(format!("{ready} ready")) };
    _ = writeln!(text, "Fleet    {} ({devices}, {all})", paint.bold(&status.fleet));
    _ = writeln!(text, "Leader   {}", leader(status, paint));
    _ = writeln!(text, "Voters   {}{}", status.voters.join(", "), because(&status.why_voters));
    _ = writeln!(text, "Seen by  {}, {}", status.device, knowledge(status, paint));
    _ = writeln!(text, "State    revision {}, hash {}", status.revision, short(&status.state_hash));
    text.push('\n');
    text.push_str(&device_table(status, wide, paint));
    if status.problems.is_empty() {
        if status.quorum && ready == status.devices.len() {
            _ = writeln!(text, "\n{}", paint.green("Nothing is wrong."));
        }
        return text;
    }
    _ = writeln!(text, "\n{}", paint.red("What is wrong:"));
    for problem in &status.problems {
        _ = writeln!(text, "  - {}", problem.what);
        if !problem.todo.is_empty() {
            _ = writeln!(text, "    {} {}", paint.yellow("do:"), problem.todo);
        }
    }
    text
}

fn leader(status: &FleetStatus, paint: Paint) -> String {
    match (&status.leader, status.quorum) {
        (Some(name), true) => format!("{} (term {})", paint.bold(name), status.term),
        (Some(name), false) => format!("{name}, {}", paint.red("but it has no quorum: reads are stale, writes fail")),
        (None, _) => paint.red("none: reads are stale, writes fail"),
    }
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({})", why.trim_end_matches('.')) }
}

fn knowledge(status: &FleetStatus, paint: Paint) -> String {
    let age = status.knowledge_age_ms;
    if age < OLD_MS && !status.quorum {
        // After a start in the dark it can not know how long it was off.
        return paint.yellow("as it last knew: no leader answers");
    }
    if age < OLD_MS { "up to date".to_owned() } else { paint.yellow(format!("as it was {} ago", span(age / 1000))) }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn device_table(status: &FleetStatus, wide: bool, paint: Paint) -> String {
    let mut headings = vec!["DEVICE", "READY", "ROLE", "HEARD", "BEHIND", "PODS"];
    if wide {
        headings.extend(["ID", "ADDRESSES"]);
    }
    let mut table = Table::new(headings);
    for device in &status.devices {
        let mut row = vec![
            device.name.clone(),
            if device.ready { paint.green("yes") } else { paint.red("no") },
            role(device.role).to_owned(),
            heard(device, status),
            device.lag.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
            device.pods.to_string(),
        ];
        if wide {
            row.extend([device.member_id.to_string(), device.addresses.join(",")]);
        }
        table.row(row);
    }
    table.render()
}

fn role(role: DeviceRole) -> &'static str {
    match role {
        DeviceRole::Leader => "leader",
        DeviceRole::Voter => "voter",
        DeviceRole::Learner => "learner",
    }
}

fn heard(device: &DeviceStatus, status: &FleetStatus) -> String {
    match device.last_heard_ms {
        _ if device.name == status.device => "this device".to_owned(),
        // Only the leader is answered by everyone; the others can not tell.
        None => "-".to_owned(),
        Some(ms) if ms < OLD_MS => "now".to_owned(),
        Some(ms) => format!("{} ago", span(ms / 1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fleet::Problem;

    fn device(name: &str, role: DeviceRole, ready: bool, last_heard_ms: Option<u64>) -> DeviceStatus {
        DeviceStatus { name: name.into(), role, ready, last_heard_ms, lag: Some(0), pods: 2, ..Default::default() }
    }

    #[test]
    fn a_fleet_with_a_lost_device_says_what_to_do() {
        let status = FleetStatus {
            fleet: "f-1".into(),
            device: "d2".into(),
            leader: Some("d2".into()),
            term: 4,
            quorum: true,
            voters: vec!["d1".into(), "d2".into(), "d3".into()],
            devices: vec![
                device("d1", DeviceRole::Voter, false, Some(95_000)),
                device("d2", DeviceRole::Leader, true, None),
                device("d3", DeviceRole::Voter, true, Some(80)),
            ],
            revision: 17,
            state_hash: "0123456789abcdef".into(),
            why_voters: "three voters survive the loss of one.".into(),
            problems: vec![Problem { what: "d1 is silent".into(), todo: "look at its power and network".into() }],
            ..FleetStatus::default()
        };
        let expected = "\
Fleet    f-1 (3 devices, 2 ready)
Leader   d2 (term 4)
Voters   d1, d2, d3 (three voters survive the loss of one)
Seen by  d2, up to date
State    revision 17, hash 0123456789ab

DEVICE   READY   ROLE     HEARD         BEHIND   PODS
d1       no      voter    95s ago       0        2
d2       yes     leader   this device   0        2
d3       yes     voter    now           0        2

What is wrong:
  - d1 is silent
    do: look at its power and network
";
        assert_eq!(render(&status, false, Paint::none()), expected);
    }

    #[test]
    fn a_device_in_the_dark_says_how_old_its_knowledge_is() {
        let status =
            FleetStatus { fleet: "f".into(), device: "d1".into(), knowledge_age_ms: 3_660_000, ..Default::default() };
        let text = render(&status, false, Paint::none());
        assert!(!text.contains("never"), "{text}");
        assert!(text.contains("as it was 61m ago") && text.contains("none: reads are stale"), "{text}");
        assert!(render(&FleetStatus::default(), false, Paint::none()).contains("kith init"));
    }
}

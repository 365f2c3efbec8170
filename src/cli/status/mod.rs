//! `kith status`: one screen about the fleet: who leads, who votes and why not others, how the
//! devices are, what is wrong and what to type about it. It fits 80 columns, and a fleet that is
//! larger than a screen is summed up.

mod settings;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::Session;
use super::failure::Failure;
use super::output::{self, Format, Paint, Table, count, raw, say, span};
use crate::api::fleet::{self, DeviceRole, DeviceStatus, FleetStatus};

/// Knowledge older than this is old enough to say so, in milliseconds.
const OLD_MS: u64 = 3_000;
/// Columns of the screen.
const COLUMNS: usize = 80;
/// Devices of a fleet that is shown whole.
const SHOWN: usize = 12;
/// Letters of a name; the rest of it only shows in the wide form.
const NAME: usize = 20;
/// Names in one line of those that do not vote.
const NAMES: usize = 4;
/// Problems that are shown, worst first.
const PROBLEMS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Show the settings of the agent, and where each came from; --config without a file does too
    #[arg(long)]
    settings: bool,
}

pub(crate) async fn run(args: &StatusArgs, session: &Session) -> Result<(), Failure> {
    if args.settings || session.common.shows_settings() {
        return settings::run(args.output, session).await;
    }
    let status: FleetStatus = session.client()?.get(fleet::STATUS).await?;
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
    let all = match ready {
        // Nobody knows how the others are.
        _ if !status.quorum => String::new(),
        all if all == status.devices.len() => format!(", {}", paint.green("all ready")),
        some => format!(", {}", paint.yellow(format!("{some} ready"))),
    };
    _ = writeln!(text, "Fleet    {} ({devices}{all})", paint.bold(&status.fleet));
    _ = writeln!(text, "Leader   {}", leader(status, paint));
    let why = status.why_voters.trim_end_matches('.');
    _ = writeln!(text, "{}", wrapped("Voters   ", &format!("{}: {why}", status.voters.join(", ")), 9));
    _ = writeln!(text, "Seen by  {}, {}", status.device, knowledge(status, paint));
    _ = writeln!(text, "State    revision {}, hash {}", status.revision, short(&status.state_hash));
    text.push('\n');
    text.push_str(&device_table(status, wide, paint));
    text.push_str(&without_vote(status, wide));
    if status.problems.is_empty() {
        if status.quorum && ready == status.devices.len() {
            _ = writeln!(text, "\n{}", paint.green("Nothing is wrong."));
        }
        return text;
    }
    _ = writeln!(text, "\n{}", paint.red("What is wrong:"));
    let shown = if wide { status.problems.len() } else { PROBLEMS };
    for problem in status.problems.iter().take(shown) {
        _ = writeln!(text, "{}", wrapped("  - ", &problem.what, 4));
        if !problem.todo.is_empty() {
            let todo = wrapped("    do: ", &problem.todo, 8);
            _ = writeln!(text, "{}", todo.replacen("do:", &paint.yellow("do:"), 1));
        }
    }
    if status.problems.len() > shown {
        _ = writeln!(text, "  - and {} more: kith status -o wide", status.problems.len() - shown);
    }
    text
}

/// The words of a text; a command is one word, so that it can be copied whole. It goes on to the
/// next punctuation.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut inside = false;
    for word in text.split(' ') {
        match words.last_mut() {
            Some(last) if inside => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        inside = (inside || word.trim_start_matches('(') == "kith") && !word.ends_with([',', ';', ':', '.', ')']);
    }
    words
}

/// Text in lines of the screen's width, the first after a lead, the others indented.
fn wrapped(lead: &str, text: &str, indent: usize) -> String {
    let mut lines = vec![lead.to_owned()];
    let mut width = lead.chars().count();
    let mut fresh = true;
    for word in words(text) {
        let length = word.chars().count();
        if !fresh && width + 1 + length > COLUMNS {
            lines.push(" ".repeat(indent));
            width = indent;
            fresh = true;
        }
        let Some(line) = lines.last_mut() else { break };
        if !fresh {
            line.push(' ');
            width += 1;
        }
        line.push_str(&word);
        width += length;
        fresh = false;
    }
    lines.join("\n")
}

fn leader(status: &FleetStatus, paint: Paint) -> String {
    match (&status.leader, status.quorum) {
        (Some(name), true) => format!("{} (term {})", paint.bold(name), status.term),
        (Some(name), false) => format!("{name}, {}", paint.red("but it has no quorum: reads are stale, writes fail")),
        (None, _) => paint.red("none: reads are stale, writes fail"),
    }
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

/// Whether there is nothing to say of a device but that it is there.
fn is_dull(device: &DeviceStatus) -> bool {
    // A mirror is heard of poll by poll: its silence is told with the problems.
    let mirror = device.role == DeviceRole::Mirror;
    let heard = mirror || device.last_heard_ms.is_none_or(|ms| ms < OLD_MS);
    let level = device.lag_ms.is_none_or(|ms| ms < OLD_MS);
    device.ready && (mirror || device.role == DeviceRole::Learner) && heard && level && !device.cordoned
}

fn device_table(status: &FleetStatus, wide: bool, paint: Paint) -> String {
    let zones = status.devices.iter().any(|device| !device.zone.is_empty());
    let whole = wide || status.devices.len() <= SHOWN;
    let mut headings = vec!["DEVICE", "READY", "ROLE"];
    headings.extend(zones.then_some("ZONE"));
    headings.extend(["HEARD", "BEHIND", "PODS"]);
    if wide {
        headings.extend(["ID", "VOTER", "ADDRESSES"]);
    }
    let mut table = Table::new(headings);
    let told: Vec<&DeviceStatus> = status.devices.iter().filter(|device| whole || !is_dull(device)).collect();
    // Never more than a screen, however much is wrong.
    let limit = if whole { told.len() } else { SHOWN * 2 };
    for device in told.iter().take(limit) {
        let ready = match device.ready {
            _ if !status.quorum && device.name != status.device => paint.yellow("?"),
            true => paint.green("yes"),
            false => paint.red("no"),
        };
        let mut row = vec![
            if wide { device.name.clone() } else { cut(&device.name, NAME) },
            if device.cordoned { format!("{ready}, cordoned") } else { ready },
            role(device).to_owned(),
        ];
        row.extend(zones.then(|| if device.zone.is_empty() { "-".to_owned() } else { cut(&device.zone, 12) }));
        row.extend([heard(device, status), behind(device), pods(device)]);
        if wide {
            row.extend([device.member_id.to_string(), device.preference.to_string(), device.addresses.join(",")]);
        }
        table.row(row);
    }
    let mut text = table.render();
    let dull = status.devices.len() - told.len();
    let mirrors = status.devices.iter().any(|device| device.role == DeviceRole::Mirror);
    if dull > 0 {
        _ = writeln!(
            text,
            "and {} that {} ready and up to date: kith status -o wide",
            count(dull, if mirrors { "device" } else { "learner" }),
            if dull == 1 { "is" } else { "are" }
        );
    }
    if told.len() > limit {
        _ = writeln!(text, "and {} more that need a look: kith status -o wide", told.len() - limit);
    }
    text
}

/// Those that do not vote, by the reason.
fn without_vote(status: &FleetStatus, wide: bool) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for device in status.devices.iter().filter(|device| !device.no_vote.is_empty()) {
        reasons.entry(&device.no_vote).or_default().push(cut(&device.name, NAME));
    }
    let mut text = String::new();
    if reasons.is_empty() {
        return text;
    }
    _ = writeln!(text, "\nWithout a vote:");
    let limit = if wide { usize::MAX } else { NAMES };
    for (reason, names) in reasons {
        let more = names.len().saturating_sub(limit);
        let shown = names[..names.len() - more].join(", ");
        let names = if more > 0 { format!("{shown} and {more} more") } else { shown };
        _ = writeln!(text, "{}", wrapped("  ", &format!("{names}: {reason}"), 4));
    }
    text
}

fn cut(name: &str, letters: usize) -> String {
    if name.chars().count() <= letters {
        return name.to_owned();
    }
    name.chars().take(letters - 2).chain("..".chars()).collect()
}

fn role(device: &DeviceStatus) -> &'static str {
    match device.role {
        DeviceRole::Leader => "leader",
        DeviceRole::Voter if device.witness => "witness",
        DeviceRole::Voter => "voter",
        DeviceRole::Learner => "learner",
        DeviceRole::Mirror => "mirror",
    }
}

fn heard(device: &DeviceStatus, status: &FleetStatus) -> String {
    match device.last_heard_ms {
        _ if device.name == status.device => "this device".to_owned(),
        _ if device.name == status.observer => "now".to_owned(),
        None => "-".to_owned(),
        Some(ms) if ms < OLD_MS => "now".to_owned(),
        Some(ms) => format!("{} ago", span(ms / 1000)),
    }
}

fn behind(device: &DeviceStatus) -> String {
    match (device.lag, device.lag_ms) {
        (None, _) => "-".to_owned(),
        (Some(entries), Some(ms)) if entries > 0 && ms >= 1000 => format!("{entries} ({})", span(ms / 1000)),
        (Some(entries), _) => entries.to_string(),
    }
}

fn pods(device: &DeviceStatus) -> String {
    if device.witness { "-".to_owned() } else { device.pods.to_string() }
}

#[cfg(test)]
mod tests;

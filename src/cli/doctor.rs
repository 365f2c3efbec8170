//! `kith doctor`: looks at this device and says what is wrong and what to do. It needs no agent, and
//! without root it says what it could not see.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::failure::{Code, Failure};
use super::output::{self, Paint, Table, count, raw};
use super::{Session, socket_in, wait};
use crate::api::fleet::{self, FleetStatus};
use crate::config::Config;
use crate::doctor::probe::{self, Given, Target};
use crate::doctor::{self, Finding, GROUPS, Outcome};

/// How long the agent is waited for: it may be what is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Checks or groups to look at; all without any
    checks: Vec<String>,
    /// Print findings as JSON
    #[arg(long)]
    json: bool,
    /// List the checks, and look at nothing
    #[arg(long, conflicts_with_all = ["json", "facts"])]
    list: bool,
    /// Print what was seen as JSON, for a report of a mistake
    #[arg(long, conflicts_with = "json")]
    facts: bool,
    /// Show those that are well or skipped too
    #[arg(short, long)]
    all: bool,
}

pub(crate) fn run(args: &DoctorArgs, session: &Session) -> Result<(), Failure> {
    if args.list {
        return list().print();
    }
    if let Some(name) = doctor::unknown(&args.checks).first() {
        return Err(Failure::usage(format!("there is no check and no group {name}")).hint("kith doctor --list"));
    }
    let facts = look(session);
    if args.facts {
        return output::json(&facts);
    }
    let findings = doctor::examine(&facts, &args.checks);
    if args.json {
        output::json(&findings)?;
    } else {
        let all = args.all || !args.checks.is_empty();
        raw(render(&findings, all, Paint::stdout()).as_bytes())?;
    }
    if findings.iter().any(|finding| finding.outcome == Outcome::Problem) {
        return Err(Failure::said(Code::Failed));
    }
    Ok(())
}

/// Asks the agent, and looks at the device.
fn look(session: &Session) -> doctor::Facts {
    let named = session.common.config_file();
    let settled = Config::settle(named.as_deref(), &[]);
    let file = named.unwrap_or_else(|| Config::DEFAULT_PATH.into());
    let settings = match &settled {
        Ok(_) if file.exists() => Ok(file.display().to_string()),
        Ok(_) => Ok(format!("there is no {}: all defaults", file.display())),
        Err(error) => Err(crate::resource::chain(error)),
    };
    let config = settled.map(|settled| settled.config).unwrap_or_default();
    let socket = session.common.socket.clone().unwrap_or_else(|| socket_in(&config.run_dir));
    let client = super::client::Client::new(socket, session.common.verbose);
    let asked = wait(async {
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.get::<FleetStatus>(fleet::STATUS)).await;
        answer.unwrap_or_else(|_| Err(Failure::failed(format!("no answer within {ANSWER_WITHIN:?}"))))
    });
    let peers = asked.as_ref().ok().map(targets);
    let answer = asked.map(answered).map_err(|failure| failure.chain.join(": "));
    let floor = crate::agent::clock::BUILT_AFTER.0;
    let floor = i64::try_from(floor).unwrap_or(i64::MAX);
    probe::facts(&Given { config: &config, settings, answer, peers, floor })
}

fn answered(status: FleetStatus) -> doctor::facts::Answer {
    doctor::facts::Answer {
        version: status.version,
        quorum: status.quorum,
        leader: status.leader,
        problems: status.problems.into_iter().map(|problem| (problem.what, problem.todo)).collect(),
    }
}

/// The other devices, where the agent reaches them.
fn targets(status: &FleetStatus) -> Vec<Target> {
    let others = status.devices.iter().filter(|device| device.name != status.device);
    others
        .map(|device| Target {
            name: device.name.clone(),
            addresses: device.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        })
        .collect()
}

fn list() -> Table {
    let mut table = Table::new(["GROUP", "CHECK", "WHETHER"]);
    for group in GROUPS {
        for check in group.checks {
            table.row([group.name, check.id, check.title]);
        }
    }
    table
}

fn word(outcome: Outcome, paint: Paint) -> String {
    match outcome {
        Outcome::Ok => paint.green("ok"),
        Outcome::Note => "note".to_owned(),
        Outcome::Warning => paint.yellow("warning"),
        Outcome::Problem => paint.red("problem"),
        Outcome::Skipped => "skipped".to_owned(),
    }
}

/// What a person reads: group by group, and a sum at the end.
fn render(findings: &[Finding], all: bool, paint: Paint) -> String {
    let mut text = String::new();
    for group in GROUPS {
        let told = |finding: &&Finding| {
            let dull = matches!(finding.outcome, Outcome::Ok | Outcome::Skipped);
            finding.group == group.name && (all || !dull)
        };
        let shown: Vec<&Finding> = findings.iter().filter(told).collect();
        if shown.is_empty() {
            continue;
        }
        _ = writeln!(text, "{}", paint.bold(group.name));
        for finding in shown {
            let name = paint.bold(finding.id);
            let word = word(finding.outcome, paint);
            let mut seen = finding.seen.lines();
            let first = seen.next().unwrap_or_default();
            _ = writeln!(text, "  {word}  {name}: {first}");
            for line in seen {
                _ = writeln!(text, "      {line}");
            }
            if !finding.todo.is_empty() {
                _ = writeln!(text, "      {} {}", paint.yellow("do:"), finding.todo);
            }
        }
        text.push('\n');
    }
    let number = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (problems, warnings) = (number(Outcome::Problem), number(Outcome::Warning));
    let sum = format!(
        "{}: {}, {}, {}, {} ok, {} skipped",
        count(findings.len(), "check"),
        count(problems, "problem"),
        count(warnings, "warning"),
        count(number(Outcome::Note), "note"),
        number(Outcome::Ok),
        number(Outcome::Skipped)
    );
    let sum = match (problems, warnings) {
        (0, 0) => paint.green(sum),
        (0, _) => paint.yellow(sum),
        _ => paint.red(sum),
    };
    let more = if all { "" } else { " (-a shows all)" };
    _ = writeln!(text, "{sum}{more}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_group_by_group() {
        let finding = |group, id, outcome, seen: &str, todo: &str| Finding {
            id,
            group,
            title: "",
            outcome,
            seen: seen.into(),
            todo: todo.into(),
        };
        let findings = [
            finding("kernel", "bridge", Outcome::Ok, "it was made", ""),
            finding("cgroups", "cgroup-memory", Outcome::Problem, "it is off", "switch it on"),
            finding("agent", "settings", Outcome::Note, "two\nlines", ""),
        ];
        let text = render(&findings, false, Paint::none());
        assert_eq!(
            text,
            "agent\n  note  settings: two\n      lines\n\ncgroups\n  problem  cgroup-memory: it is off\n      do: switch it on\n\n\
             3 checks: 1 problem, 0 warnings, 1 note, 1 ok, 0 skipped (-a shows all)\n"
        );
        assert!(render(&findings, true, Paint::none()).contains("  ok  bridge: it was made\n"));
    }
}

//! `kith recover`: the quorum is lost for good, and this device goes on alone. What may be lost is
//! said before anything is done.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::client::Client;
use super::failure::{Code, Doing, Failure};
use super::output::{note, say, span};
use crate::api::fleet::{self, RecoverAsk, RecoverDone, RecoverView};

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Do it without asking back
    #[arg(long)]
    yes: bool,
    /// Although the fleet has a quorum: what the others have beyond this device is lost
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: &RecoverArgs, client: &Client) -> Result<(), Failure> {
    let view: RecoverView = client.get(fleet::RECOVER).await?;
    if view.fleet.is_empty() {
        return Err(Failure::new(Code::Refused, "this device is in no fleet"));
    }
    if view.quorum && !args.force {
        return Err(Failure::new(Code::Refused, "the fleet has a quorum: there is nothing to recover")
            .hint("kith status shows it"));
    }
    note!("{}", warning(&view));
    if !args.yes && !agreed(&view.device)? {
        return Err(Failure::new(Code::Refused, "nothing was done").hint("kith recover --yes does it without asking"));
    }
    let done: RecoverDone = client.post(fleet::RECOVER, &RecoverAsk { force: args.force }).await?;
    say!("{} goes on alone in epoch {}", view.device, done.epoch)?;
    note!("Its agent starts again with it; its containers run on. kith status shows the rest.");
    Ok(())
}

/// What a recovery does and may lose.
fn warning(view: &RecoverView) -> String {
    let heard = match (&view.leader, view.leader_heard_seconds) {
        (Some(leader), Some(seconds)) => format!("{leader} led when a leader was last heard, {} ago", span(seconds)),
        (_, None) => "no leader was heard since the agent started".to_owned(),
        (None, Some(seconds)) => format!("a leader was last heard {} ago", span(seconds)),
    };
    let index = |index: Option<u64>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let others = if view.others.is_empty() { "nobody".to_owned() } else { view.others.join(", ") };
    let mut lines = vec![
        format!("{} would go on alone as fleet {}, in epoch {}.", view.device, view.fleet, view.epoch + 1),
        format!("Kept: every entry of its log, up to {} (acknowledged for certain: up to {}), revision {}, last write of {}.",
            index(view.last_entry), index(view.applied), view.revision, view.last_write),
        format!("Lost: what {others} had beyond that. {heard}."),
        "The others are fenced when they come back: they begin again as new members, and their old log and state are set aside there. Their containers run on.".to_owned(),
    ];
    let rest: Vec<&str> = view.voters.iter().map(String::as_str).filter(|voter| *voter != view.device).collect();
    if rest.len() > 1 {
        lines.push(format!(
            "If {} still reach each other, they may be working without {}: look there first.",
            rest.join(", "),
            view.device
        ));
    }
    if !view.is_voter {
        lines.push(format!(
            "{} does not vote, so it may be further behind than one of {}: prefer one of them.",
            view.device,
            view.voters.join(", ")
        ));
    }
    if view.quorum {
        lines.push("The fleet has a quorum NOW. Whatever is written meanwhile is lost too.".to_owned());
    }
    lines.join("\n")
}

fn agreed(device: &str) -> Result<bool, Failure> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Ok(false);
    }
    let mut screen = std::io::stderr();
    write!(screen, "Type the name of this device to go on: ").and_then(|()| screen.flush()).doing(|| "ask".into())?;
    let mut line = String::new();
    input.read_line(&mut line).doing(|| "read the answer".into())?;
    Ok(line.trim() == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost_is_said() {
        let view = RecoverView {
            fleet: "f".into(),
            device: "d2".into(),
            epoch: 1,
            voters: vec!["d1".into(), "d2".into(), "d3".into()],
            others: vec!["d1".into(), "d3".into()],
            leader: Some("d1".into()),
            leader_heard_seconds: Some(90),
            last_entry: Some(41),
            applied: Some(40),
            revision: 7,
            last_write: "then".into(),
            is_voter: true,
            ..RecoverView::default()
        };
        let text = warning(&view);
        for part in ["epoch 2", "up to 41", "up to 40", "what d1, d3 had beyond", "d1 led", "90s ago"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("does not vote"));
        assert!(warning(&RecoverView { is_voter: false, ..view }).contains("does not vote"));
    }
}

//! Why a member does not vote, for people. It explains what the pilot decides and decides nothing.

use super::{Steady, View};
use crate::identity::Preference;

/// Why a member does not vote, as a phrase; `None` for one that votes.
pub fn bench(view: &View, id: u64) -> Option<String> {
    let member = view.members.get(&id)?;
    if member.voter {
        return None;
    }
    Some(match member.steady {
        _ if member.preference == Preference::Never => "its label says kith.dev/voter=never".into(),
        _ if !view.alive(id) => format!("it was not heard for {}", seconds(member.silence)),
        _ if !member.caught_up => "it is still catching up".into(),
        Steady::For { so_far, needed } => {
            format!("connected for {}, a voter must stay {}", seconds(so_far), seconds(needed))
        }
        Steady::Enough => "it is ready to take the place of a voter".into(),
    })
}

fn seconds(span: std::time::Duration) -> String {
    format!("{} s", span.as_secs())
}

//! Which ids of this device stand for the users of which pod. A pod keeps its range for as long as
//! anything of it is here; the notes lie where containers do, and a reboot empties both.

#![expect(clippy::disallowed_methods, reason = "keeps a file")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::UserIds;
use crate::reconciler::container::UserRange;

/// Ids of one pod.
const IDS: u32 = 65_536;

/// Ranges by the uid of their pods.
#[derive(Debug)]
pub(super) struct Ranges {
    file: PathBuf,
    settings: UserIds,
    /// Which of the ranges, counted from 0.
    slots: BTreeMap<String, u32>,
}

impl Ranges {
    /// Those that an earlier agent gave.
    pub(super) fn load(run_dir: &Path, settings: UserIds) -> Self {
        let file = run_dir.join("user-ids.json");
        let slots = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, settings, slots }
    }

    /// Gives ranges to these pods, takes back those of all others, and tells who has which. A pod
    /// without one finds all taken.
    pub(super) fn settle<'a>(&mut self, pods: impl Iterator<Item = &'a str>) -> BTreeMap<String, UserRange> {
        let wanted: Vec<&str> = pods.collect();
        let mut slots = self.slots.clone();
        slots.retain(|uid, _| wanted.contains(&uid.as_str()));
        let ranges = self.settings.count / IDS;
        for uid in wanted {
            if !slots.contains_key(uid)
                && let Some(free) = (0..ranges).find(|slot| !slots.values().any(|taken| taken == slot))
            {
                slots.insert(uid.to_owned(), free);
            }
        }
        if slots != self.slots {
            self.slots = slots;
            let draft = self.file.with_extension("new");
            let bytes = serde_json::to_vec(&self.slots).unwrap_or_default();
            if let Err(error) = fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &self.file)) {
                tracing::warn!(%error, file = %self.file.display(), "the ids of pods can not be noted");
            }
        }
        let range = |slot: u32| UserRange { first: self.settings.first + slot * IDS, count: IDS };
        self.slots.iter().filter(|(_, slot)| **slot < ranges).map(|(uid, slot)| (uid.clone(), range(*slot))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_stay_with_their_pods() {
        let folder = tempfile::tempdir().unwrap();
        let settings = UserIds { first: 1_000_000, count: 2 * IDS };
        let mut ranges = Ranges::load(folder.path(), settings);
        let given = ranges.settle(["a", "b", "c"].into_iter());
        assert_eq!(given["a"], UserRange { first: 1_000_000, count: IDS });
        assert_eq!(given["b"], UserRange { first: 1_065_536, count: IDS });
        assert!(!given.contains_key("c"), "there are two");
        // Another agent, after the first pod has gone.
        let mut ranges = Ranges::load(folder.path(), settings);
        let later = ranges.settle(["b", "c"].into_iter());
        assert_eq!((later["b"], later["c"]), (given["b"], given["a"]));
    }
}

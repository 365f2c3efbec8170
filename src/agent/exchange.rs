//! Exchanging log and state between two starts. The enrolment says what is to be done, in one file
//! that is replaced at once; each step can be repeated, so a power cut at any point leaves the old
//! ones or the new ones. What is exchanged is kept as evidence, the last few times.

use std::path::Path;

use super::{AgentError, file};
use crate::identity::Enrolment;

/// What is exchanged.
const NAMES: [&str; 2] = ["state.redb", "log"];
/// Where the old ones go, and where new ones are made ready.
const ASIDE: &str = "aside";
/// New ones, ready.
pub(crate) const STAGED: &str = "staged";
/// How many old ones are kept.
const KEPT: usize = 2;

/// Ends an exchange that the enrolment names, if it names one.
pub(crate) fn finish(data_dir: &Path, mut enrolment: Enrolment) -> Result<Enrolment, AgentError> {
    let Some(switch) = enrolment.switch.take() else { return Ok(enrolment) };
    let aside = data_dir.join(ASIDE).join(&switch.aside);
    std::fs::create_dir_all(&aside).map_err(file(format!("make {}", aside.display())))?;
    for name in NAMES {
        let (here, old, new) = (data_dir.join(name), aside.join(name), data_dir.join(STAGED).join(name));
        // Where one lies ready, its absence means that it was put in place before.
        let due = if switch.staged { new.exists() } else { here.exists() && !old.exists() };
        if due && here.exists() {
            if old.exists() {
                remove(&old)?;
            }
            put(&here, &old)?;
        }
        if due && switch.staged {
            put(&new, &here)?;
        }
    }
    sync(data_dir)?;
    sync(&aside)?;
    enrolment.store(data_dir)?;
    if switch.staged {
        remove(&data_dir.join(STAGED))?;
    }
    forget_oldest(&data_dir.join(ASIDE))?;
    tracing::warn!(aside = %aside.display(), "the log and the state of before are set aside");
    Ok(enrolment)
}

fn put(from: &Path, to: &Path) -> Result<(), AgentError> {
    std::fs::rename(from, to).map_err(file(format!("move {} to {}", from.display(), to.display())))
}

fn sync(folder: &Path) -> Result<(), AgentError> {
    std::fs::File::open(folder).and_then(|open| open.sync_all()).map_err(file(format!("sync {}", folder.display())))
}

/// Removes a file or a folder, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), AgentError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn forget_oldest(folder: &Path) -> Result<(), AgentError> {
    let entries = std::fs::read_dir(folder).map_err(file(format!("look into {}", folder.display())))?;
    let mut found: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    found.into_iter().take(surplus).try_for_each(|(_, path)| remove(&path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::identity::{Identity, Role, Switch, TokenTerms};
    use crate::resource::Timestamp;

    fn enrolment(dir: &Path, staged: bool) -> Enrolment {
        let identity = Identity::load_or_create(dir).unwrap();
        let terms = TokenTerms {
            role: Role::Device,
            uses: 1,
            expires: Timestamp(2),
            created: Timestamp(1),
            created_by: "t".into(),
        };
        let member = identity.member("d1", Vec::new(), 1);
        let (mut enrolment, _) = Enrolment::found(&identity, member, terms).unwrap();
        enrolment.switch = Some(Switch { aside: "old".into(), staged });
        enrolment.store(dir).unwrap();
        enrolment
    }

    fn fill(dir: &Path, text: &str) {
        fs::create_dir_all(dir.join("log")).unwrap();
        fs::write(dir.join("log/1"), text).unwrap();
        fs::write(dir.join("state.redb"), text).unwrap();
    }

    fn holds(dir: &Path) -> Vec<String> {
        let texts = [dir.join("log/1"), dir.join("state.redb")];
        texts.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
    }

    /// Power cuts between any two steps: each leaves some prefix of the renames done.
    #[test]
    fn an_exchange_that_was_cut_short_anywhere_is_ended_by_the_next_start() {
        for staged in [true, false] {
            for cut in 0..=4 {
                let dir = tempfile::tempdir().unwrap();
                let wanted = enrolment(dir.path(), staged);
                let (aside, ready) = (dir.path().join("aside/old"), dir.path().join(STAGED));
                fill(dir.path(), "old");
                if staged {
                    fill(&ready, "new");
                }
                fs::create_dir_all(&aside).unwrap();
                let mut steps = Vec::new();
                for name in NAMES {
                    steps.push((dir.path().join(name), aside.join(name)));
                    if staged {
                        steps.push((ready.join(name), dir.path().join(name)));
                    }
                }
                for (from, to) in steps.into_iter().take(cut) {
                    fs::rename(from, to).unwrap();
                }
                let done = finish(dir.path(), wanted).unwrap();
                assert_eq!(done.switch, None);
                assert_eq!(holds(&aside), ["old", "old"], "staged {staged}, cut {cut}");
                let expected = if staged { vec!["new", "new"] } else { Vec::new() };
                assert_eq!(holds(dir.path()), expected, "staged {staged}, cut {cut}");
                assert_eq!(Enrolment::load(dir.path()).unwrap(), Some(done));
                assert!(!ready.exists());
            }
        }
    }
}

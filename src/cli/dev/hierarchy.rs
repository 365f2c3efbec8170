//! Cgroups of a development fleet in every mounted hierarchy, v1 and v2: found, emptied, removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::agents;
use super::mounts;
use crate::cli::failure::{Code, Failure};

/// Pause between attempts to remove a cgroup whose last program is still ending.
const PAUSE: Duration = Duration::from_millis(10);
/// Attempts: five seconds.
const ATTEMPTS: u32 = 500;

/// Where hierarchies are mounted.
fn roots() -> Vec<PathBuf> {
    let is_cgroup = |mount: &mounts::Mount| matches!(&mount.kind[..], "cgroup" | "cgroup2");
    let mut roots: Vec<_> = mounts::all().into_iter().filter(is_cgroup).map(|mount| mount.point).collect();
    roots.sort();
    roots.dedup();
    roots
}

/// Kills everything under this cgroup in all hierarchies and removes it. Returns how many
/// programs there were. What does not exist is no failure.
pub(super) fn remove(cgroup: &str) -> Result<usize, Failure> {
    let mut count = 0;
    for root in roots() {
        let path = root.join(cgroup.trim_start_matches('/'));
        if path.is_dir() {
            count += empty(&path)?;
            clear(&path)?;
        }
    }
    Ok(count)
}

/// Removes the folders above a fleet's cgroup where nothing else is in them.
pub(super) fn remove_empty_parents(cgroup: &str) {
    for root in roots() {
        let mut path = Path::new(cgroup.trim_start_matches('/')).to_owned();
        while path.pop() && path != Path::new("") {
            if fs::remove_dir(root.join(&path)).is_err() {
                break;
            }
        }
    }
}

/// Whether anything of this cgroup is left.
#[cfg(test)]
fn exists(cgroup: &str) -> bool {
    roots().iter().any(|root| root.join(cgroup.trim_start_matches('/')).exists())
}

fn empty(path: &Path) -> Result<usize, Failure> {
    let mut count = 0;
    for _ in 0..ATTEMPTS {
        let mut pids = Vec::new();
        for folder in folders(path) {
            // A frozen program is killed only when it thaws.
            for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                if folder.join(file).exists() {
                    _ = fs::write(folder.join(file), value);
                }
            }
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids.retain(|pid| *pid > 1 && pid.unsigned_abs() != std::process::id());
        if pids.is_empty() {
            return Ok(count);
        }
        count += pids.len();
        agents::end(&pids)?;
        std::thread::sleep(PAUSE);
    }
    Err(Failure::failed(format!("something keeps starting programs in {}", path.display())))
}

fn clear(path: &Path) -> Result<(), Failure> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..ATTEMPTS {
        let mut left = false;
        for folder in folders(path) {
            if let Err(error) = fs::remove_dir(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                last = error;
                left = true;
            }
        }
        if !left {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Err(Failure::of(Code::Failed, &last).during(format!("remove the cgroup {}", path.display())))
}

/// A cgroup and all below it, deepest first.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(folders(&entry.path()));
        }
    }
    found.push(path.to_owned());
    found
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_cgroup_with_programs_in_it_is_emptied_and_removed_everywhere() {
        let cgroup = format!("/kith/test-{}/d1", std::process::id());
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let roots = roots();
        assert!(!roots.is_empty(), "no cgroup hierarchy is mounted");
        for root in &roots {
            fs::create_dir_all(root.join(cgroup.trim_start_matches('/')).join("deep")).expect("this test needs root");
        }
        let pids = roots.iter().find(|root| root.ends_with("pids")).unwrap_or(&roots[0]);
        let procs = pids.join(cgroup.trim_start_matches('/')).join("deep/cgroup.procs");
        fs::write(procs, child.id().to_string()).unwrap();
        // A zombie stays in its cgroup until it is reaped.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(remove(&cgroup).unwrap(), 1);
        assert!(!reaper.join().unwrap().success());
        remove_empty_parents(&cgroup);
        assert!(!exists(&cgroup) && !exists(&format!("/kith/test-{}", std::process::id())));
        assert_eq!(remove(&cgroup).unwrap(), 0);
    }
}

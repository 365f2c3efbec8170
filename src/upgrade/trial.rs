//! The new program's side of a trial: until it has shown that it is well, a thread of its own waits
//! with the way back. It hangs on nothing that the new program does, so a program that hangs goes too.

#![expect(clippy::disallowed_methods, reason = "a trial has a time")]

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::launch::{hand_over, on_trial};
use super::record::{Record, Trial};
use crate::kill_point;

#[derive(Debug, Default)]
struct Doubt {
    /// What it still lacks.
    why: String,
    over: bool,
}

static DOUBT: Mutex<Doubt> = Mutex::new(Doubt { why: String::new(), over: false });
static CHANGED: Condvar = Condvar::new();

fn doubt() -> MutexGuard<'static, Doubt> {
    DOUBT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// If this program is on trial: what ran before comes back after so long, unless [`well`] was said.
pub fn guard(dir: PathBuf, within: Duration) -> Option<Trial> {
    let trial = on_trial(&dir)?;
    let deadline = Instant::now() + within;
    let waiting = std::thread::Builder::new().name("trial".into()).spawn(move || {
        let mut doubt = doubt();
        while !doubt.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("it was not well within {} s: {}", within.as_secs(), doubt.why);
                drop(doubt);
                go_back(&dir, &why);
                return;
            }
            doubt = CHANGED.wait_timeout(doubt, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    });
    if let Err(error) = waiting {
        // The starts are counted all the same.
        tracing::error!(%error, "nobody waits with the old program");
    }
    Some(trial)
}

/// Becomes what ran before.
fn go_back(dir: &std::path::Path, why: &str) {
    let undone = Record::load(dir).and_then(|mut record| {
        record.failed(why);
        record.store(dir)
    });
    match undone {
        Ok(()) => {
            tracing::error!(why, "this release is not well here, and the one before comes back");
            kill_point::reached("upgrade:rolled-back");
            let error = hand_over(dir);
            tracing::error!(error = crate::resource::chain(&error), "the release before does not start from here");
        }
        Err(error) => tracing::error!(error = crate::resource::chain(&error), "the way back can not be written down"),
    }
    // Whoever starts the agent again starts what the record names.
    std::process::exit(1);
}

/// What the program on trial still lacks.
pub fn lacks(why: &str) {
    doubt().why = why.into();
}

/// The program on trial is well: it stays. False when the record says otherwise by now.
pub fn well(dir: &std::path::Path) -> Result<bool, super::UpgradeError> {
    // Held until the record is written: the way back and this can not both be taken.
    let mut doubt = doubt();
    if on_trial(dir).is_none() {
        return Ok(false);
    }
    let mut record = Record::load(dir)?;
    record.well();
    kill_point::reached("upgrade:well");
    record.store(dir)?;
    doubt.over = true;
    drop(doubt);
    CHANGED.notify_all();
    kill_point::reached("upgrade:stays");
    Ok(true)
}

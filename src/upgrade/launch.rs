//! The first thing that an agent's start does: go on as the program that the record names. It happens
//! before the settings are read, because an old installed program may not know the newest of them.
#![expect(clippy::disallowed_methods, reason = "programs are files, and a start has an environment")]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::record::{Go, Record, Starter, Trial};
use super::{UpgradeError, io, release};
use crate::config::Config;

/// The trial that a start was counted for. The names begin otherwise than settings do.
const COUNTED: &str = "_KITH_TRIAL";
/// The installed program: where it is, and its release.
const INSTALLED: &str = "_KITH_INSTALLED";
const INSTALLED_VERSION: &str = "_KITH_INSTALLED_VERSION";
/// How many programs this start has gone through.
const DEPTH: &str = "_KITH_LAUNCHES";

/// A start that goes through more programs than this goes in circles.
const DEPTH_LIMIT: u32 = 6;

/// The folder of upgrades, as far as the settings say so without being understood.
pub fn folder(named: Option<&Path>) -> PathBuf {
    let text = std::fs::read_to_string(named.unwrap_or(Path::new(Config::DEFAULT_PATH))).unwrap_or_default();
    let settings: toml::Table = text.parse().unwrap_or_default();
    let path = |table: &toml::Table, key: &str| Some(PathBuf::from(table.get(key)?.as_str()?));
    let own = settings.get("upgrade").and_then(toml::Value::as_table).and_then(|upgrade| path(upgrade, "dir"));
    let data = path(&settings, "data_dir").unwrap_or_else(|| Config::default().data_dir);
    own.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| data.join("upgrade"))
}

/// The release of the installed program.
pub fn installed_version() -> String {
    std::env::var(INSTALLED_VERSION).unwrap_or_else(|_| release::version().into())
}

/// The digest of the slot whose program runs here; `None` for the installed one.
pub fn own_slot(dir: &Path) -> Option<String> {
    let exe = std::env::current_exe().ok()?.canonicalize().ok()?;
    let slots = dir.join("slots").canonicalize().ok()?;
    let inside = exe.strip_prefix(slots).ok()?;
    Some(inside.components().next()?.as_os_str().to_str()?.to_owned())
}

/// Goes on as the program that the record names; returns when that is this one. What stands in the way
/// is told, and this program goes on: a device is better off with an old agent than with none.
pub fn launch(dir: &Path) -> Vec<String> {
    let mut told = Vec::new();
    let depth: u32 = std::env::var(DEPTH).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if depth >= DEPTH_LIMIT {
        return vec![format!("a start went through {DEPTH_LIMIT} programs: this one goes on")];
    }
    // One that can not be started is one that has failed: the next round decides anew.
    for _ in 0..DEPTH_LIMIT {
        match step(dir, depth) {
            Ok(None) => return told,
            Ok(Some(why)) => told.push(why),
            Err(error) => {
                told.push(crate::resource::chain(&error));
                return told;
            }
        }
    }
    told
}

/// One decision, executed. `None`: this program goes on. A text: why another one could not be started.
fn step(dir: &Path, depth: u32) -> Result<Option<String>, UpgradeError> {
    let mut record = Record::load(dir)?;
    let before = record.clone();
    let starter =
        Starter { slot: own_slot(dir), version: release::own().version.clone(), counted: std::env::var(COUNTED).ok() };
    let go = record.start(&starter, |slot| slot.program(dir).is_file());
    if record != before {
        // Before anything is started: an attempt that nobody wrote down would be tried for ever.
        record.store(dir)?;
    }
    let installed = starter.slot.is_none();
    let counted = record.trial.as_ref().map(|trial| trial.to.as_ref().map_or("", |slot| slot.digest.as_str()));
    let error = match &go {
        Go::Here => return Ok(None),
        Go::Slot(slot) => exec(&slot.program(dir), counted, installed, depth),
        Go::Installed => match std::env::var_os(INSTALLED) {
            Some(program) => exec(Path::new(&program), counted, false, depth),
            // Somebody started the program of a slot by hand.
            None => return Ok(None),
        },
    };
    let why = crate::resource::chain(&error);
    if let (Go::Slot(slot), true) = (&go, record.trial.is_some()) {
        let text = format!("{} can not be started: {why}", slot.version);
        record.failed(&text);
        record.store(dir)?;
        return Ok(Some(text));
    }
    Err(error)
}

/// Becomes another program, as the same process. Returns only when that fails.
fn exec(program: &Path, counted: Option<&str>, installed: bool, depth: u32) -> UpgradeError {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(DEPTH, (depth + 1).to_string());
    match counted {
        Some(digest) => command.env(COUNTED, digest),
        None => command.env_remove(COUNTED),
    };
    if installed && let Ok(own) = std::env::current_exe() {
        // A package that was upgraded while this program ran has another one in its place.
        let own = own.into_os_string();
        let own = own.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map_or(own.clone(), OsString::from);
        command.env(INSTALLED, own).env(INSTALLED_VERSION, release::version());
    }
    io(format!("start {}", program.display()))(command.exec())
}

/// Takes from a command what belongs to this start alone.
pub fn begin_anew(command: &mut Command) {
    command.env_remove(COUNTED).env_remove(DEPTH);
}

/// Becomes the program that the record names now, while an agent runs: its own start counts the
/// attempt. Returns only when that fails, and what was on trial has failed then.
pub fn hand_over(dir: &Path) -> UpgradeError {
    let mut record = match Record::load(dir) {
        Ok(record) => record,
        Err(error) => return error,
    };
    let next = record.trial.as_ref().map_or_else(|| record.current.clone(), |trial| trial.to.clone());
    let program = match (&next, std::env::var_os(INSTALLED)) {
        (Some(slot), _) => slot.program(dir),
        (None, Some(installed)) => PathBuf::from(installed),
        (None, None) => PathBuf::from("/proc/self/exe"),
    };
    let error = exec(&program, None, own_slot(dir).is_none(), 0);
    record.failed(&crate::resource::chain(&error));
    match record.store(dir) {
        Ok(()) => error,
        Err(error) => error,
    }
}

/// The slot that a trial leads to, if this program is on trial.
pub fn on_trial(dir: &Path) -> Option<Trial> {
    let trial = Record::load(dir).ok()?.trial?;
    let digest = trial.to.as_ref().map(|slot| slot.digest.clone());
    (own_slot(dir) == digest).then_some(trial)
}

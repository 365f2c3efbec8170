//! Opening a state file that may be damaged. redb checks its pages, but trusts some of them before
//! it does, and a panic ends the agent: then the agent would start, panic and start for ever. A
//! panic while a state is opened leaves a note beside it, and the next start reads the note instead
//! of the state.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use super::disk::Disk;

thread_local! {
    /// Where to leave a note when this thread panics.
    static NOTE: RefCell<Option<(Arc<dyn Disk>, PathBuf)>> = const { RefCell::new(None) };
}

/// The note's file in a data folder.
pub(super) const SUSPECT: &str = "state.suspect";
/// Bytes of a note that are read.
const NOTE_BYTES: usize = 512;

/// What an earlier start found, if it ended in a panic.
pub(super) fn noted(disk: &dyn Disk, dir: &Path) -> io::Result<Option<String>> {
    let path = dir.join(SUSPECT);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let file = disk.open(&path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(NOTE_BYTES).min(NOTE_BYTES)];
    file.read_at(0, &mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Opens something. `None` when that ended in a panic, and panics do not end the program.
pub(super) fn guarded<T>(disk: &Arc<dyn Disk>, dir: &Path, open: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave_note(&panic.to_string());
            others(panic);
        }));
    });
    let path = dir.join(SUSPECT);
    NOTE.with_borrow_mut(|note| *note = Some((disk.clone(), path.clone())));
    let opened = catch_unwind(AssertUnwindSafe(open));
    NOTE.with_borrow_mut(Option::take);
    if opened.is_err() {
        // The caller knows now, so no later start has to be told.
        let _ = disk.remove(&path);
    }
    opened.ok()
}

fn leave_note(what: &str) {
    let note = NOTE.try_with(|note| note.try_borrow_mut().ok().and_then(|mut note| note.take())).ok().flatten();
    if let Some((disk, path)) = note {
        // Without the note the next start ends like this one: it is all that can be done.
        let left = disk.create(&path).and_then(|file| {
            file.write_at(0, what.as_bytes())?;
            file.sync()
        });
        drop(left.and_then(|()| disk.sync_dir(path.parent().unwrap_or(Path::new(".")))));
    }
}

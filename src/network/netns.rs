//! Named network namespaces: files under `/run/netns`, where `ip netns` looks for them too.
//!
//! A namespace is made on a thread that then ends: a fork in a process with threads, or a change
//! of the caller's own namespace, could not be undone.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::NetworkError;

/// Where namespaces have their names.
pub const FOLDER: &str = "/run/netns";

/// The file of a namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Whether a namespace of this name is mounted, rather than a file that was left behind.
pub fn exists(name: &str) -> bool {
    inode(name).is_some()
}

/// The namespace's number, as `/proc/<pid>/ns/net` shows it for everything that runs in it.
pub fn inode(name: &str) -> Option<u64> {
    let file = fs::metadata(path(name)).ok()?;
    let folder = fs::metadata(FOLDER).ok()?;
    (file.dev() != folder.dev()).then(|| file.ino())
}

/// The names of all namespaces, sorted.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Makes an empty namespace: no link but its own `lo`, which is down, and no route to anywhere.
pub fn create(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    if exists(name) {
        return Err(NetworkError::Exists { name: name.to_owned(), path });
    }
    let failed = |source: io::Error| NetworkError::Namespace { step: "make", name: name.to_owned(), source };
    fs::create_dir_all(FOLDER).map_err(failed)?;
    fs::File::create(&path).map_err(failed)?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        // The file means nothing without its mount.
        drop(fs::remove_file(&path));
    }
    made.map_err(failed)
}

/// Takes the name away; the namespace ends with the last thing that runs in it. A name that does
/// not exist is no error.
pub fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    let failed = |source: io::Error| NetworkError::Namespace { step: "remove", name: name.to_owned(), source };
    while exists(name) {
        umount2(&path, MntFlags::MNT_DETACH).map_err(|e| failed(e.into()))?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Moves the calling thread into a namespace. Everything that the thread then spawns lives there.
pub fn enter(name: &str) -> Result<(), NetworkError> {
    let failed = |source: io::Error| NetworkError::Namespace { step: "enter", name: name.to_owned(), source };
    if !exists(name) {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let file = fs::File::open(path(name)).map_err(failed)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))
}

/// Runs `work` on a thread of its own inside a namespace, and waits for it.
pub fn within<T, E>(name: &str, work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
where
    T: Send,
    E: From<NetworkError> + Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn on_own_thread(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

//! Connections to ports of a pod, made inside its network namespace: they reach what listens on its
//! loopback address alone too.

#![expect(clippy::disallowed_methods, reason = "a namespace is a file")]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::folder::Folder;

/// How long a port may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port of the container's network.
pub(super) async fn connect(folder: &Folder, port: u16) -> Result<tokio::net::TcpStream, String> {
    let progress = folder.progress().map_err(|error| format!("read state.json: {error}"))?;
    let (init, _) = progress.and_then(|progress| progress.running).ok_or("the container has not started yet")?;
    let handle = init.open().ok_or("the container is not running")?;
    let (done, result) = oneshot::channel();
    // A thread of its own, which is never used for anything else: it is in another network.
    let dialler = move || {
        let dialled = enter(&handle, init.pid).and_then(|()| dial(port));
        let _ = done.send(dialled);
    };
    std::thread::Builder::new().name("dial a pod".into()).spawn(dialler).map_err(|error| error.to_string())?;
    let stream = result.await.map_err(|_| "the thread that dials was ended".to_owned())?;
    let stream = stream.map_err(|error| error.to_string())?;
    stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream)).map_err(|e| e.to_string())
}

/// Moves this thread into the network namespace of a process.
fn enter(handle: &std::os::fd::OwnedFd, pid: i32) -> io::Result<()> {
    let its = File::open(format!("/proc/{pid}/ns/net"))?;
    // Opened by number: the handle says whether it was still the same process.
    if super::pidfd::has_ended(handle) {
        return Err(io::Error::other("the container has ended"));
    }
    setns(its.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Dials the loopback addresses, one after the other.
fn dial(port: u16) -> io::Result<TcpStream> {
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&four, TIMEOUT).or_else(|error| {
        // Where there is no such address either, the first answer says more.
        TcpStream::connect_timeout(&six, TIMEOUT).map_err(|_| error)
    })
}

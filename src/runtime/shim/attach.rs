//! Those who are attached to a container: they see what it writes as it writes it, and one pipe or
//! terminal takes what they type. The waiter has this only for containers with an input or a terminal.
//!
//! Each comes over a socket in the container's folder that keeps messages apart; `runtime::attach` has
//! their shapes. One that takes nothing holds the container back for a while, as a terminal would, and
//! is then cut off.

#![expect(clippy::disallowed_methods, reason = "removes and opens files of the container's folder")]

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, accept4, bind, listen, recv, sendmsg, setsockopt, socket,
    sockopt,
};

use super::console::INPUT;
use crate::reconciler::container::Console;
use crate::runtime::attach::{Message, SOCKET, address};
use crate::runtime::exec::resize;
use crate::runtime::folder::Folder;

/// The most who are attached at a time.
const CLIENTS: usize = 16;
/// Bytes on their way to one of them, as the kernel counts them: four times what is read at once.
const QUEUE: usize = 256 << 10;
/// How long one may take nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same once the container has ended.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of an unfinished line, such as a prompt, that those who come later are shown.
const PROMPT: usize = 1 << 10;
/// Bytes from before that the first one is shown: whoever makes a container to talk to it comes a moment late.
const EARLIER: usize = 16 << 10;
/// What ends input for a terminal, at the beginning of a line.
const END_OF_INPUT: u8 = 4;

/// The attached, and what they write to.
pub(super) struct Attach {
    listener: OwnedFd,
    clients: Vec<Client>,
    console: Console,
    path: PathBuf,
    /// Where input goes; `None` once it has ended.
    input: Option<File>,
    /// Input that the container has not taken yet.
    pending: Vec<u8>,
    /// The latest output of each stream, for those who come later.
    recent: [Vec<u8>; 2],
    /// Whether nobody came yet.
    awaited: bool,
    over: bool,
}

struct Client {
    socket: OwnedFd,
    /// Whether the input is its own, to end with it.
    writes: bool,
    /// Since when it takes nothing.
    stalled: Option<Instant>,
}

impl Attach {
    /// Listens in the container's folder. `input` is the end of its pipe, or its terminal.
    pub(super) fn open(folder: &Folder, console: Console, input: Option<File>) -> io::Result<Self> {
        let path = folder.path().join(SOCKET);
        let _ = fs::remove_file(&path);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (_folder, address) = address(folder)?;
        bind(listener.as_raw_fd(), &address)?;
        listen(&listener, Backlog::new(4)?)?;
        let input_path = folder.pipe(INPUT);
        Ok(Self {
            listener,
            clients: Vec::new(),
            console,
            path: input_path,
            input,
            pending: Vec::new(),
            recent: [Vec::new(), Vec::new()],
            awaited: true,
            over: false,
        })
    }

    /// What is waited for.
    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        polled.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        let listens = if self.pending.is_empty() { PollFlags::POLLIN } else { PollFlags::empty() };
        for client in &self.clients {
            let takes = if client.stalled.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() };
            polled.push(PollFd::new(client.socket.as_fd(), listens | takes));
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            polled.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
    }

    /// Whether the container's output has to wait for somebody, and how long at most.
    pub(super) fn hold(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let patience = if self.over { LAST_PATIENCE } else { PATIENCE };
        for client in &mut self.clients {
            client.stalled = if takes(&client.socket, PollTimeout::ZERO) { None } else { client.stalled.or(Some(now)) };
        }
        let left = |client: &Client| Some(patience.saturating_sub(now.duration_since(client.stalled?)));
        let cut = |client: &Client| left(client).is_some_and(|left| left.is_zero());
        while let Some(index) = self.clients.iter().position(cut) {
            self.leave(index);
        }
        self.clients.iter().filter_map(left).min()
    }

    /// Does what came: newcomers, input, sizes, those who left.
    pub(super) fn turn(&mut self) {
        self.pass_on();
        let mut index = 0;
        while index < self.clients.len() {
            if self.hear(index) {
                index += 1;
            } else {
                self.leave(index);
            }
        }
        while let Ok(number) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            self.welcome(number);
        }
    }

    #[expect(unsafe_code, reason = "an accepted connection arrives as a number")]
    fn welcome(&mut self, number: i32) {
        // SAFETY: the kernel just handed this descriptor to us alone.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if self.clients.len() >= CLIENTS {
            return;
        }
        let _ = setsockopt(&socket, sockopt::SndBuf, &QUEUE);
        let client = Client { socket, writes: false, stalled: None };
        let mut shown = (1..).zip(&self.recent).filter(|(_, bytes)| !bytes.is_empty());
        if shown.all(|(stream, bytes)| send(&client, stream, bytes)) {
            self.clients.push(client);
        }
        if self.awaited {
            self.awaited = false;
            self.recent.iter_mut().for_each(|recent| shorten(recent, &[], false));
        }
    }

    /// Tells everyone what the container wrote to a stream, 1 or 2.
    pub(super) fn tell(&mut self, stream: u8, bytes: &[u8]) {
        shorten(&mut self.recent[usize::from(stream == 2)], bytes, self.awaited);
        let over = self.over;
        let mut index = 0;
        while index < self.clients.len() {
            let client = &self.clients[index];
            let last = PollTimeout::try_from(LAST_PATIENCE).unwrap_or(PollTimeout::ZERO);
            if (!over || takes(&client.socket, last)) && send(client, stream, bytes) {
                index += 1;
            } else {
                self.leave(index);
            }
        }
    }

    /// The container has ended: what is told from now on is the last.
    pub(super) fn finish(&mut self) {
        self.over = true;
    }

    /// Takes one message. Returns whether the client is still there.
    fn hear(&mut self, index: usize) -> bool {
        let mut buffer = [0; Message::LIMIT];
        while self.pending.is_empty() {
            let client = &mut self.clients[index];
            let length = match recv(client.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return false,
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => return true,
                Err(_) => return false,
            };
            match Message::parse(&buffer[..length]) {
                Some(Message::Writes) => client.writes = true,
                Some(Message::Input(bytes)) => {
                    self.pending.extend_from_slice(bytes);
                    self.pass_on();
                }
                Some(Message::End) if self.console.once => self.end_input(),
                Some(Message::Size(size)) if self.console.tty => {
                    if let Some(terminal) = &self.input {
                        let _ = resize(terminal, size);
                    }
                }
                Some(Message::End | Message::Size(_)) => {}
                None => return false,
            }
        }
        true
    }

    /// Gives the container what it takes of the input that waits.
    fn pass_on(&mut self) {
        while !self.pending.is_empty() {
            match self.input.as_mut().map(|input| input.write(&self.pending)) {
                Some(Ok(count)) if count > 0 => drop(self.pending.drain(..count)),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads it any more: it goes nowhere.
                _ => self.pending = Vec::new(),
            }
        }
    }

    /// For good: a terminal is told as by a keyboard, and stays for its output.
    fn end_input(&mut self) {
        if self.console.tty {
            self.pending.push(END_OF_INPUT);
            self.pass_on();
        } else {
            self.input = None;
            self.pending = Vec::new();
            // A waiter that takes over must not open it again.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn leave(&mut self, index: usize) {
        let client = self.clients.swap_remove(index);
        // Who comes back finds a terminal as it was left.
        if client.writes && self.console.once && !self.console.tty {
            self.end_input();
        }
    }
}

/// Keeps of the output what those who come later are shown.
fn shorten(recent: &mut Vec<u8>, more: &[u8], awaited: bool) {
    let limit = if awaited { EARLIER } else { PROMPT };
    if !awaited && let Some(end) = more.iter().rposition(|byte| *byte == b'\n') {
        recent.clear();
        recent.extend_from_slice(&more[end + 1..]);
    } else {
        recent.extend_from_slice(more);
        if !awaited && let Some(end) = recent.iter().rposition(|byte| *byte == b'\n') {
            recent.drain(..=end);
        }
    }
    let excess = recent.len().saturating_sub(limit);
    recent.drain(..excess);
    recent.shrink_to(limit);
}

/// Whether a client takes more within this time.
fn takes(socket: &OwnedFd, within: PollTimeout) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, within).is_ok_and(|count| count > 0)
}

/// Sends one piece of output. Returns whether it was taken.
fn send(client: &Client, stream: u8, bytes: &[u8]) -> bool {
    let parts = [IoSlice::new(std::slice::from_ref(&stream)), IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(client.socket.as_raw_fd(), &parts, &[], flags, None).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ones_are_shown_the_prompt_and_the_first_what_was_before() {
        let kept = |pieces: &[&[u8]], awaited| {
            let mut recent = Vec::new();
            for piece in pieces {
                shorten(&mut recent, piece, awaited);
            }
            String::from_utf8(recent).unwrap()
        };
        assert_eq!(kept(&[b"one\ntwo\n$ "], false), "$ ");
        assert_eq!(kept(&[b"$ ", b"ls"], false), "$ ls");
        assert_eq!(kept(&[b"$ ", b"ls\r\n"], false), "");
        assert_eq!(kept(&[b"one\n", b"two\n$ "], true), "one\ntwo\n$ ");
        assert_eq!(kept(&[&[b'x'; 4096]], false).len(), PROMPT);
        assert_eq!(kept(&[&[b'x'; EARLIER], b"end"], true).len(), EARLIER);
    }
}

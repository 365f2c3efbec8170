//! Messages to the kernel's packet filter: an encoder as small as Kith's one table needs, and a socket.
//!
//! No crate that was looked at speaks nf_tables under a licence that fits and without the `nft`
//! program or a C library.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes of a netlink header, and of netfilter's after it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// A netlink error, and the end of a dump.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of a request.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// That a payload holds attributes.
const NESTED: u16 = 0x8000;
/// The kind of an attribute, without its flags.
const KIND_MASK: u16 = 0x3fff;

/// The longest time that the kernel may take to answer.
const PATIENCE: i64 = 10;

/// Answers that are read before the kernel is taken to make no sense.
const ANSWERS_LIMIT: usize = 100_000;

/// Bytes of one answer.
const ANSWER_BYTES: usize = 64 << 10;

/// Attributes, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.bytes(kind, &bytes)
    }

    /// A number, in the network's order.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Attributes as they were read.
    pub(super) fn raw(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Those of a message or of a nested attribute, by kind.
    pub(super) fn parse(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut found = Vec::new();
        while bytes.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & KIND_MASK;
            let Some(value) = bytes.get(4..length) else { break };
            found.push((kind, value));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        found
    }
}

/// Messages that are sent together.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Messages {
    /// `kind` is subsystem << 8 | message; `resource` goes into the header, in the network's order.
    pub(super) fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes) {
        self.sequence += 1;
        self.last = self.bytes.len();
        let length = HEADER + FAMILY_HEADER + attributes.0.len();
        self.bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
    }

    /// Asks for an answer to the last message also when all is well; returns its number.
    pub(super) fn acknowledge_last(&mut self) -> u32 {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let now = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&now.to_ne_bytes());
        }
        self.sequence
    }
}

/// What the kernel said to one message.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) attributes: Vec<u8>,
}

/// A connection to the packet filter of the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Netfilter(OwnedFd);

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        Ok(Self(fd))
    }

    /// Sends the messages and reads until the last of them that asks for it is answered. The first
    /// refusal is the error.
    pub(super) fn ask(&self, messages: &Messages, last: u32) -> io::Result<Vec<Answer>> {
        // A large batch needs more room than a socket has by default.
        let _ = setsockopt(&self.0, sockopt::SndBufForce, &(messages.bytes.len() * 2 + ANSWER_BYTES));
        sendto(self.0.as_raw_fd(), &messages.bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES];
        for _ in 0..ANSWERS_LIMIT {
            let count = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EAGAIN) => {
                    let why = format!("no answer within {:?}", Duration::from_secs(PATIENCE.unsigned_abs()));
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                found => found?,
            };
            if read(&buffer[..count], last, &mut answers)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel does not come to an end"))
    }
}

/// Reads the messages of one packet; true once the last one was answered.
fn read(mut bytes: &[u8], last: u32, answers: &mut Vec<Answer>) -> io::Result<bool> {
    let mut over = false;
    while bytes.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (length, sequence) = (usize::try_from(word(0)).unwrap_or(0), word(8));
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let Some(payload) = bytes.get(HEADER..length) else { break };
        match kind {
            ERROR | DONE => {
                let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                if code < 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                over |= sequence == last;
            }
            kind => {
                let attributes = payload.get(FAMILY_HEADER..).unwrap_or_default().to_vec();
                answers.push(Answer { kind, attributes });
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(over)
}

/// A socket that hears of every change of the packet filter's rules.
pub(super) fn changes() -> io::Result<OwnedFd> {
    /// `NFNLGRP_NFTABLES`, as a bit.
    const GROUP: u32 = 1 << (7 - 1);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
    Ok(fd)
}

/// Takes what a socket of `changes` has heard; what was lost of it does not matter.
pub(super) fn drain(fd: &OwnedFd) {
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Whether an error says that the kernel knows no such thing.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

//! Finding each other on one network after all addresses changed: multicast DNS, as small as it can
//! be. A device that hears no leader asks for `_kith._udp.local` and says where it is; one that is
//! asked answers. Nothing is sent while the fleet is together. What is heard is a hint where to
//! dial and nothing more: whoever answers there still has to prove its key.
//!
//! An own few hundred lines and not a library: those that exist announce on a timer, keep a cache
//! and a thread, and answer for everything that a responder may be asked; here one packet of each
//! kind is enough.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::identity::DeviceKey;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// The service's name, as labels.
const SERVICE: [&str; 3] = ["_kith", "_udp", "local"];
/// The most bytes of a packet that is looked at.
const PACKET_LIMIT: usize = 1500;
/// The most records of a packet that are looked at.
const RECORD_LIMIT: u16 = 32;
/// The most labels of a name.
const LABEL_LIMIT: usize = 16;

const TYPE_PTR: u16 = 12;
const TYPE_TXT: u16 = 16;
const CLASS_IN: u16 = 1;
/// Seconds that others may remember an answer.
const TTL: u32 = 10;

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody asks who is there.
    Question,
    /// A device of a fleet is there.
    Here {
        /// Its fleet.
        fleet: String,
        /// Its key, as it says.
        key: DeviceKey,
        /// Where it says that it listens.
        at: SocketAddr,
    },
}

/// A socket in the multicast group.
#[derive(Debug)]
pub struct Multicast {
    socket: UdpSocket,
    joined: Vec<Ipv4Addr>,
}

impl Multicast {
    /// Listens beside whoever else speaks multicast DNS on this device.
    pub fn open() -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, joined: Vec::new() })
    }

    /// Listens on the networks of these addresses.
    pub fn join(&mut self, addresses: &[IpAddr]) {
        let own: Vec<Ipv4Addr> =
            addresses.iter().filter_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None }).collect();
        for address in &own {
            if !self.joined.contains(address) {
                // One that is in the group already, or has no multicast, changes nothing.
                let _ = self.socket.join_multicast_v4(GROUP, *address);
            }
        }
        self.joined = own;
    }

    /// Says something on each network that was joined.
    pub fn say(&self, packet: &[u8]) {
        for address in &self.joined {
            // A socket that is bound to an address sends out of its interface, route or not.
            let sent = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).and_then(|socket| {
                socket.bind(&SocketAddr::from((*address, 0)).into())?;
                socket.set_multicast_ttl_v4(1)?;
                socket.send_to(packet, &SocketAddrV4::new(GROUP, PORT).into())
            });
            if let Err(error) = sent {
                tracing::debug!(%address, %error, "no multicast here");
            }
        }
    }

    /// The next thing that is heard.
    pub async fn hear(&self) -> std::io::Result<Heard> {
        let mut packet = [0; PACKET_LIMIT];
        loop {
            let (length, from) = self.socket.recv_from(&mut packet).await?;
            if let Some(heard) = parse(&packet[..length], from.ip()) {
                return Ok(heard);
            }
        }
    }
}

/// The packet that asks who is there.
pub fn question() -> Vec<u8> {
    let mut packet = header(0, 1, 0);
    name(&mut packet, &SERVICE);
    words(&mut packet, &[TYPE_PTR, CLASS_IN]);
    packet
}

/// The packet that says where this device is.
pub fn here(fleet: &str, key: &DeviceKey, port: u16) -> Vec<u8> {
    let mut packet = header(0x8400, 0, 2);
    let key = key.to_string();
    let instance = [&key[..16], SERVICE[0], SERVICE[1], SERVICE[2]];
    let mut target = Vec::new();
    name(&mut target, &instance);
    record(&mut packet, &SERVICE, TYPE_PTR, &target);
    let mut text = Vec::new();
    for pair in [format!("f={fleet}"), format!("k={key}"), format!("p={port}")] {
        text.push(u8::try_from(pair.len()).unwrap_or(0));
        text.extend_from_slice(pair.as_bytes());
    }
    record(&mut packet, &instance, TYPE_TXT, &text);
    packet
}

fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(256);
    words(&mut packet, &[0, flags, questions, answers, 0, 0]);
    packet
}

fn words(packet: &mut Vec<u8>, words: &[u16]) {
    for word in words {
        packet.extend_from_slice(&word.to_be_bytes());
    }
}

fn name(packet: &mut Vec<u8>, labels: &[&str]) {
    for label in labels {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
}

fn record(packet: &mut Vec<u8>, labels: &[&str], kind: u16, content: &[u8]) {
    name(packet, labels);
    words(packet, &[kind, CLASS_IN]);
    packet.extend_from_slice(&TTL.to_be_bytes());
    words(packet, &[u16::try_from(content.len()).unwrap_or(0)]);
    packet.extend_from_slice(content);
}

/// What a packet of somebody says, if it concerns Kith. Whatever the bytes are, it ends soon.
pub fn parse(packet: &[u8], from: IpAddr) -> Option<Heard> {
    let mut reader = Reader { packet, at: 0 };
    let [_, _, questions, answers, _, _] = [(); 6].map(|()| reader.word());
    for _ in 0..questions?.min(RECORD_LIMIT) {
        let labels = reader.name()?;
        let kind = reader.word()?;
        reader.word()?;
        if labels == SERVICE && kind == TYPE_PTR {
            return Some(Heard::Question);
        }
    }
    for _ in 0..answers?.min(RECORD_LIMIT) {
        let labels = reader.name()?;
        let kind = reader.word()?;
        reader.take(6)?;
        let length = usize::from(reader.word()?);
        let content = reader.take(length)?;
        if kind == TYPE_TXT && labels.len() == 4 && labels[1..] == SERVICE {
            return read_text(content, from);
        }
    }
    None
}

fn read_text(mut content: &[u8], from: IpAddr) -> Option<Heard> {
    let (mut fleet, mut key, mut port) = (None, None, None);
    while let Some((&length, rest)) = content.split_first() {
        let (pair, rest) = rest.split_at_checked(usize::from(length))?;
        content = rest;
        let (field, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        match field {
            "f" => fleet = Some(value.to_owned()),
            "k" => key = Some(DeviceKey(hex::decode(value).ok()?.try_into().ok()?)),
            "p" => port = Some(value.parse().ok()?),
            _ => {}
        }
    }
    Some(Heard::Here { fleet: fleet?, key: key?, at: SocketAddr::new(from, port?) })
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.packet.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name; one pointer backwards is followed at each step, and all labels are counted.
    fn name(&mut self) -> Option<Vec<&'a str>> {
        let mut labels = Vec::new();
        let mut reader = Reader { packet: self.packet, at: self.at };
        let mut end = None;
        loop {
            let length = reader.take(1)?[0];
            match length {
                0 => break,
                1..=63 => labels.push(std::str::from_utf8(reader.take(usize::from(length))?).ok()?),
                _ => {
                    let low = reader.take(1)?[0];
                    end.get_or_insert(reader.at);
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    if target + 2 >= reader.at {
                        return None;
                    }
                    reader.at = target;
                }
            }
            if labels.len() > LABEL_LIMIT {
                return None;
            }
        }
        self.at = end.unwrap_or(reader.at);
        Some(labels)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    #[test]
    fn packets_read_back() {
        assert_eq!(parse(&question(), FROM), Some(Heard::Question));
        let (fleet, key) = ("0123456789abcdef0123456789abcdef".to_owned(), DeviceKey([7; 32]));
        let said = here(&fleet, &key, 7443);
        assert_eq!(parse(&said, FROM), Some(Heard::Here { fleet, key, at: SocketAddr::new(FROM, 7443) }));
        for cut in 0..said.len() {
            assert_eq!(parse(&said[..cut], FROM), None, "cut at {cut}");
        }
    }

    #[test]
    fn other_peoples_names_are_passed_over_and_loops_end() {
        let mut printer = header(0, 1, 0);
        name(&mut printer, &["_ipp", "_tcp", "local"]);
        words(&mut printer, &[TYPE_PTR, CLASS_IN]);
        assert_eq!(parse(&printer, FROM), None);
        let mut looped = header(0, 1, 0);
        looped.extend_from_slice(&[1, b'a', 0xc0, 12]);
        words(&mut looped, &[TYPE_PTR, CLASS_IN]);
        assert_eq!(parse(&looped, FROM), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, FROM);
        }
    }
}

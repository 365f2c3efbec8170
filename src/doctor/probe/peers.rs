//! Whether other devices answer on their port. Each is sent a packet of a version of QUIC that there is
//! not, to which every endpoint must answer with the versions that it knows: no key is needed, nothing
//! is remembered there, and no fleet takes notice.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::super::facts::Peer;

/// Devices that are asked, at most.
const PEERS: usize = 64;

/// Addresses of one that are tried, at most.
const ADDRESSES: usize = 4;

/// When each is asked again: a packet may be lost.
const ASKED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(800)];

/// When no answer comes any more.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Bytes below which a packet of an unknown version is not answered.
const LENGTH: usize = 1200;

/// A version that is kept free for this.
const VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// Bytes of a connection's id.
const ID: usize = 8;

/// A device to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Where it may be reached, best first.
    pub addresses: Vec<SocketAddr>,
}

/// Asks them all at once.
pub(super) fn ask(targets: &[Target]) -> Vec<Peer> {
    let targets = &targets[..targets.len().min(PEERS)];
    let base: u64 = rand::random::<u64>() & !0xffff;
    let mut answered = BTreeMap::new();
    let sockets: Vec<UdpSocket> =
        [UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)), UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))]
            .into_iter()
            .flatten()
            .filter(|socket| socket.set_read_timeout(Some(Duration::from_millis(10))).is_ok())
            .collect();
    let begun = Instant::now();
    let mut rounds = ASKED.into_iter().peekable();
    while begun.elapsed() < PATIENCE && answered.len() < targets.len() {
        if rounds.next_if(|at| begun.elapsed() >= *at).is_some() {
            for (index, target) in targets.iter().enumerate().filter(|(index, _)| !answered.contains_key(index)) {
                send(&sockets, target, base + index as u64);
            }
        }
        for socket in &sockets {
            let mut packet = [0; 1500];
            match socket.recv_from(&mut packet) {
                Ok((count, _)) => {
                    let index = answer(&packet[..count]).and_then(|id| usize::try_from(id.checked_sub(base)?).ok());
                    if let Some(index) = index.filter(|index| *index < targets.len()) {
                        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        answered.entry(index).or_insert(millis);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // Nobody listens there, says a router or the other side: others may answer yet.
                Err(_) => {}
            }
        }
    }
    let peer = |(index, target): (usize, &Target)| Peer {
        name: target.name.clone(),
        addresses: target.addresses.iter().map(ToString::to_string).collect(),
        answered: answered.get(&index).copied(),
    };
    targets.iter().enumerate().map(peer).collect()
}

fn send(sockets: &[UdpSocket], target: &Target, id: u64) {
    let packet = packet(id);
    for address in target.addresses.iter().take(ADDRESSES) {
        let fits = |socket: &&UdpSocket| socket.local_addr().is_ok_and(|own| own.is_ipv4() == address.is_ipv4());
        if let Some(socket) = sockets.iter().find(fits) {
            // Unreachable is what silence says too.
            let _lost = socket.send_to(&packet, address);
        }
    }
}

/// A packet with a long header: form, version, the receiver's id, the sender's id, and nothing.
fn packet(id: u64) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(VERSION);
    for _ in 0..2 {
        packet.push(8);
        packet.extend(id.to_be_bytes());
    }
    packet.resize(LENGTH, 0);
    packet
}

/// The id to which a packet is the answer: version 0, the receiver's id first.
fn answer(packet: &[u8]) -> Option<u64> {
    let (long, version) = (packet.first()? & 0x80 != 0, packet.get(1..5)?);
    let is_answer = long && version == [0; 4] && usize::from(*packet.get(5)?) == ID;
    is_answer.then(|| packet.get(6..6 + ID)?.first_chunk().map(|id| u64::from_be_bytes(*id)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_answers_and_silence_is_told_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let identity = std::sync::Arc::new(crate::identity::Identity::create(folder.path()).unwrap());
        let trust = crate::identity::Trust::in_members(&[]);
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = crate::transport::TransportConfig::new(listen, identity, trust, crate::config::Profile::Lan);
        let transport = crate::transport::Transport::bind(config).unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = |name: &str, address: SocketAddr| Target { name: name.into(), addresses: vec![address] };
        let targets = [target("d2", transport.local_addr().unwrap()), target("d3", silent.local_addr().unwrap())];
        let peers = tokio::task::spawn_blocking(move || ask(&targets)).await.unwrap();
        assert!(peers[0].answered.is_some(), "{peers:?}");
        assert_eq!(peers[1].answered, None);
        transport.shutdown().await;
    }
}

//! Real QUIC on 127.0.0.1.

mod calls;
mod faults;
mod handshake;
mod joins;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Profile;
use crate::identity::{Admission, Identity, Token, TokenRecord, Trust};
use crate::resource::Timestamp;

/// Long enough for a loaded machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service that answers with what it was asked, and keeps tokens and members in memory.
#[derive(Default)]
struct Room {
    calls: AtomicUsize,
    streams: AtomicUsize,
    tokens: Mutex<BTreeMap<String, TokenRecord>>,
    members: Mutex<BTreeMap<u64, Member>>,
    now: Timestamp,
    fleet: String,
}

impl Service for Room {
    fn call(&self, from: DeviceKey, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match request.as_slice() {
                b"who" => from.0.to_vec(),
                b"never" => std::future::pending().await,
                b"huge" => vec![0; 2 << 20],
                _ => request,
            }
        })
    }

    fn stream(&self, _from: DeviceKey, mut stream: Box<dyn ByteStream>) {
        self.streams.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }

    fn token_hash<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<[u8; 32], JoinRefusal>> {
        let found = self.tokens.lock().unwrap().get(token).map(|record| record.hash);
        Box::pin(async move { found.ok_or(JoinRefusal::UnknownToken) })
    }

    fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinGrant, JoinRefusal>> {
        Box::pin(async move { self.admit(ask) })
    }
}

impl Room {
    fn admit(&self, ask: JoinAsk) -> Result<JoinGrant, JoinRefusal> {
        let (mut tokens, mut members) = (self.tokens.lock().unwrap(), self.members.lock().unwrap());
        let record = tokens.get(&ask.token).ok_or(JoinRefusal::UnknownToken)?;
        let known = members.iter().find(|(_, member)| member.name == ask.member.name);
        let member_id = match (record.consume(ask.member.key, &ask.member.name, self.now)?, known) {
            (Admission::Again, Some((id, member))) if member.key == ask.member.key => *id,
            (Admission::Again, _) => return Err(JoinRefusal::Used),
            (Admission::First(_), Some(_)) => return Err(JoinRefusal::NameTaken { name: ask.member.name }),
            (Admission::First(after), None) => {
                tokens.insert(ask.token, after);
                let id = members.last_key_value().map_or(1, |(id, _)| id + 1);
                members.insert(id, ask.member);
                id
            }
        };
        let members = members.clone();
        Ok(JoinGrant {
            fleet: self.fleet.clone(),
            member_id,
            members,
            authority: "certificate".into(),
            epoch: crate::identity::Epoch::FIRST,
        })
    }
}

struct Device {
    transport: Transport,
    trust: Trust,
    member: Member,
    room: Arc<Room>,
}

fn new_identity() -> Arc<Identity> {
    Arc::new(Identity::create(tempfile::tempdir().unwrap().path()).unwrap())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Device {
    fn start(name: &str) -> Self {
        Self::start_with(name, &new_identity(), local(0), Room::default(), |_| {})
    }

    fn start_with(
        name: &str,
        identity: &Arc<Identity>,
        listen: SocketAddr,
        room: Room,
        change: impl FnOnce(&mut TransportConfig),
    ) -> Self {
        let trust = Trust::default();
        let mut config = TransportConfig::new(listen, identity.clone(), trust.clone(), Profile::Lan);
        change(&mut config);
        let transport = Transport::bind(config).unwrap();
        let member = identity.member(name, vec![transport.local_addr().unwrap()], 6443);
        let room = Arc::new(room);
        transport.serve(room.clone());
        Self { transport, trust, member, room }
    }

    async fn ask(&self, peer: &Device, request: &[u8]) -> Result<Vec<u8>, WireError> {
        self.transport.call(&peer.member, request.to_vec(), PATIENCE).await
    }

    /// Live connections to a peer, and the number of the one that is preferred.
    fn links(&self, peer: &Device) -> (usize, Option<bool>) {
        self.transport.0.peer(peer.member.key).links()
    }
}

/// Devices that trust each other.
fn fleet(devices: &[&Device]) {
    for device in devices {
        device.trust.replace_members(devices.iter().map(|device| &device.member));
    }
}

fn pair() -> (Device, Device) {
    let (one, two) = (Device::start("one"), Device::start("two"));
    fleet(&[&one, &two]);
    (one, two)
}

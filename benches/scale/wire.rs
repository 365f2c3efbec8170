//! The network in memory: real messages, delivered on the receiver's runtime, counted at the leader,
//! and cut for all but the voters at a word.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kith::consensus::Engine;
use kith::identity::{DeviceKey, Member};
use kith::transport::{Wire, WireError};
use tokio::runtime::Handle;

/// What passed the leader's socket.
#[derive(Default)]
pub struct Traffic {
    pub messages: AtomicU64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
}

/// Everyone, and what lies between them.
#[derive(Default)]
pub struct Air {
    pub engines: Mutex<BTreeMap<DeviceKey, (Engine, Handle)>>,
    /// All but the voters are off the network.
    pub cut: AtomicBool,
    pub leader: Traffic,
}

/// One device's end of it. Members 1 to 3 are the voters, and the first leads.
pub struct End {
    pub id: u64,
    pub air: Arc<Air>,
}

pub fn key(id: u64) -> DeviceKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_be_bytes());
    DeviceKey(key)
}

pub fn member(id: u64) -> Member {
    Member { name: format!("device-{id:04}"), key: key(id), sealing_key: key(id).0, ..Member::default() }
}

fn voter(key: &DeviceKey) -> bool {
    (1..=3).any(|id| self::key(id) == *key)
}

impl End {
    fn passes(&self, peer: &Member) -> bool {
        !self.air.cut.load(Relaxed) || (self.id <= 3 && voter(&peer.key))
    }

    fn count(&self, peer: &Member, request: u64, answer: u64) {
        let leader = &self.air.leader;
        if self.id == 1 {
            leader.sent.fetch_add(request, Relaxed);
            leader.received.fetch_add(answer, Relaxed);
        } else if peer.key == key(1) {
            leader.received.fetch_add(request, Relaxed);
            leader.sent.fetch_add(answer, Relaxed);
        } else {
            return;
        }
        leader.messages.fetch_add(u64::from(request > 0), Relaxed);
    }
}

impl Wire for End {
    fn call<'a>(
        &'a self,
        peer: &'a Member,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, WireError>> {
        Box::pin(async move {
            let unreachable = || WireError::Unreachable { peer: peer.name.clone(), reason: "off the network".into() };
            let target = self.air.engines.lock().expect("the map is whole").get(&peer.key).cloned();
            let (engine, runtime) = target.filter(|_| self.passes(peer)).ok_or_else(unreachable)?;
            self.count(peer, request.len() as u64, 0);
            let from = key(self.id);
            let answer = runtime.spawn(async move { engine.handle(from, request).await });
            let answer = tokio::time::timeout(timeout, answer).await;
            let timed_out = || WireError::TimedOut { peer: peer.name.clone(), waited: timeout };
            let answer = answer.map_err(|_| timed_out())?.map_err(|_| unreachable())?;
            if !self.passes(peer) {
                return Err(timed_out());
            }
            self.count(peer, 0, answer.len() as u64);
            Ok(answer)
        })
    }
}

//! A fleet in one process: devices in temporary folders, connected by a wire that a test can cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver as _;
use tempfile::TempDir;

use crate::config::Profile;
use crate::consensus::message::{Envelope, Request};
use crate::consensus::{Engine, EngineConfig, Leadership, MirrorSettings, Presence, Replica};
use crate::identity::{DeviceKey, Member};
use crate::resource::Timestamp;
use crate::store::{Batch, Key, StateHash, Write, codec};
use crate::transport::{Wire, WireError};

pub(super) fn doc(name: &str) -> Key {
    Key::new("Test", "default", name)
}

pub(super) fn put(name: &str, body: &str) -> Batch {
    Batch { checks: Vec::new(), writes: vec![Write::Put { key: doc(name), body: body.into() }] }
}

pub(super) fn member(id: u64) -> Member {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_be_bytes());
    Member { name: format!("lamp-{id}"), key: DeviceKey(key), ..Member::default() }
}

/// What happens to messages.
#[derive(Default)]
pub(super) struct Weather {
    engines: BTreeMap<DeviceKey, Engine>,
    cut: BTreeSet<DeviceKey>,
    /// Nobody reaches these, and of what they send only greetings arrive.
    pub(super) strangers: BTreeSet<DeviceKey>,
    /// Requests to these are swallowed.
    pub(super) hangs: BTreeSet<DeviceKey>,
    /// Every answer to one of the next requests is lost, though the request was carried out.
    pub(super) lose_answers: u32,
    pub(super) delivered: u64,
}

/// One device's end of the wire.
struct MemoryWire {
    me: DeviceKey,
    weather: Weak<Mutex<Weather>>,
}

impl MemoryWire {
    fn target(&self, peer: &Member, request: &[u8]) -> Option<Engine> {
        let weather = self.weather.upgrade()?;
        let mut weather = weather.lock().unwrap();
        let greets = || matches!(codec::decode::<Envelope>(request), Ok(Envelope { request: Request::Hello, .. }));
        let cut = [&self.me, &peer.key].into_iter().any(|key| weather.cut.contains(key));
        if cut || weather.strangers.contains(&peer.key) || (weather.strangers.contains(&self.me) && !greets()) {
            return None;
        }
        weather.delivered += 1;
        weather.engines.get(&peer.key).cloned()
    }

    fn hangs(&self, peer: &Member) -> bool {
        self.weather.upgrade().is_some_and(|weather| weather.lock().unwrap().hangs.contains(&peer.key))
    }

    fn answer_lost(&self) -> bool {
        let Some(weather) = self.weather.upgrade() else { return true };
        let mut weather = weather.lock().unwrap();
        let lost = weather.lose_answers > 0;
        weather.lose_answers = weather.lose_answers.saturating_sub(1);
        lost
    }
}

impl Wire for MemoryWire {
    fn call<'a>(
        &'a self,
        peer: &'a Member,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, WireError>> {
        Box::pin(async move {
            let name = || peer.name.clone();
            let Some(target) = self.target(peer, &request) else {
                return Err(WireError::Unreachable { peer: name(), reason: "the test cut the wire".into() });
            };
            if self.hangs(peer) {
                // Longer than promised, as a real wire may while it dials.
                tokio::time::sleep(timeout * 10).await;
            }
            assert!(request.len() <= crate::consensus::MAX_MESSAGE_BYTES, "a request of {} bytes", request.len());
            let answer = tokio::time::timeout(timeout, target.handle(self.me, request.clone())).await;
            if self.answer_lost() || self.target(peer, &request).is_none() {
                return Err(WireError::TimedOut { peer: name(), waited: timeout });
            }
            answer.map_err(|_| WireError::TimedOut { peer: name(), waited: timeout })
        })
    }
}

pub(super) struct Fleet {
    folder: PathBuf,
    /// Removes the folder in the end, if it is the fleet's own.
    own: Option<TempDir>,
    pub(super) weather: Arc<Mutex<Weather>>,
    engines: BTreeMap<u64, Engine>,
    /// Where a device lives that lost power and was started from what its disk had.
    moved: BTreeMap<u64, PathBuf>,
    next_client: u64,
    /// Standbys of the fleet; the others are mirrors.
    pub(super) standbys: usize,
    pub(super) profile: Profile,
    /// As what devices start.
    pub(super) presence: BTreeMap<u64, Presence>,
    /// Whose key a member has, where it is not its own.
    keys: BTreeMap<u64, u64>,
    pub(super) now: Timestamp,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut fleet = Self::on(own.path());
        fleet.own = Some(own);
        fleet
    }

    /// A fleet in a given folder.
    pub(super) fn on(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            own: None,
            weather: Arc::default(),
            engines: BTreeMap::new(),
            moved: BTreeMap::new(),
            next_client: 1,
            standbys: 16,
            profile: Profile::Lan,
            presence: BTreeMap::new(),
            keys: BTreeMap::new(),
            now: Timestamp(1_800_000_000_000),
        }
    }

    pub(super) fn dir(&self, id: u64) -> PathBuf {
        self.moved.get(&id).cloned().unwrap_or_else(|| self.folder.join(id.to_string()))
    }

    /// Puts a device that was not started yet into a folder elsewhere.
    pub(super) fn place(&mut self, id: u64, folder: &Path) {
        self.moved.insert(id, folder.to_owned());
    }

    /// A member that has the key of an earlier one.
    pub(super) fn stand_in(&mut self, id: u64, whose: u64) {
        self.keys.insert(id, whose);
    }

    /// Lets go of a device that was shut down.
    pub(super) fn forget(&mut self, id: u64) {
        let removed = self.weather.lock().unwrap().engines.remove(&member(id).key);
        drop(removed);
        self.engines.remove(&id);
    }

    pub(super) fn is_running(&self, id: u64) -> bool {
        self.engines.contains_key(&id)
    }

    /// Takes the power from a device: its state is what was durable, its log what was synced. The
    /// next start finds that.
    pub(super) async fn lose_power(&mut self, id: u64) {
        let removed = self.weather.lock().unwrap().engines.remove(&member(id).key);
        drop(removed);
        let Some(engine) = self.engines.remove(&id) else { return };
        engine.inner.stop.cancel();
        engine.inner.raft.shutdown().await.unwrap();
        let image = self.folder.join(format!("{id}-{}", self.next_client));
        crate::storage::tests::copy(&self.dir(id), &image);
        self.moved.insert(id, image);
    }

    pub(super) fn engine(&self, id: u64) -> Engine {
        self.engines[&id].clone()
    }

    /// Starts a device, new or from its folder.
    pub(super) async fn start(&mut self, id: u64) -> Engine {
        self.next_client += 1;
        let now = self.now;
        let key = member(self.keys.get(&id).copied().unwrap_or(id)).key;
        let config = EngineConfig {
            data_dir: self.dir(id),
            disk: Arc::new(crate::storage::RealDisk),
            sizes: crate::storage::Sizes::default(),
            member_id: id,
            profile: self.profile,
            wire: Arc::new(MemoryWire { me: key, weather: Arc::downgrade(&self.weather) }),
            wall: Arc::new(move || now),
            client: self.next_client,
            mirrors: self.settings(id),
            presence: self.presence.get(&id).cloned().unwrap_or_default(),
        };
        let engine = Engine::start(config).await.unwrap();
        self.engines.insert(id, engine.clone());
        self.weather.lock().unwrap().engines.insert(key, engine.clone());
        engine
    }

    /// Short polls, and everyone who was started before as contacts.
    fn settings(&self, id: u64) -> MirrorSettings {
        let contacts = self.engines.keys().filter(|&&other| other != id).map(|&other| (other, member(other)));
        let poll = Some(Duration::from_millis(200));
        MirrorSettings { standbys: self.standbys, poll, contacts: contacts.collect() }
    }

    pub(super) async fn bootstrap(&mut self) -> Engine {
        let engine = self.start(1).await;
        engine.bootstrap(1, member(1)).await.unwrap();
        engine
    }

    /// Adds the next device, and waits until it knows that it is a member.
    pub(super) async fn join(&mut self) -> Engine {
        self.join_as(|member| member).await
    }

    /// The same, as a member that is made of the usual one.
    pub(super) async fn join_as(&mut self, change: impl FnOnce(Member) -> Member) -> Engine {
        let expected = self.engines.keys().max().unwrap() + 1;
        let id = self.engine(1).add_member(change(member(expected))).await.unwrap();
        assert_eq!(id, expected);
        let engine = self.start(id).await;
        engine.members().wait_for(|members| members.contains_key(&id)).await.unwrap();
        engine
    }

    /// Stops a device and lets go of its files.
    pub(super) async fn stop(&mut self, id: u64) {
        let key = member(self.keys.get(&id).copied().unwrap_or(id)).key;
        let removed = self.weather.lock().unwrap().engines.remove(&key);
        drop(removed);
        if let Some(engine) = self.engines.remove(&id) {
            engine.shutdown().await.unwrap();
        }
    }

    pub(super) async fn stop_all(&mut self) {
        for id in self.engines.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    /// Lets go of devices that can not be stopped in order.
    pub(super) fn abandon(&mut self) {
        self.weather.lock().unwrap().engines.clear();
        self.engines.clear();
    }

    pub(super) fn cut(&self, id: u64) {
        self.weather.lock().unwrap().cut.insert(member(id).key);
    }

    pub(super) fn heal(&self, id: u64) {
        self.weather.lock().unwrap().cut.remove(&member(id).key);
    }

    /// Waits until one of these leads.
    pub(super) async fn leader_among(&self, ids: &[u64]) -> u64 {
        let waits = ids.iter().map(|&id| {
            let mut leadership = self.engine(id).leadership();
            Box::pin(async move {
                leadership.wait_for(|known: &Leadership| known.is_leader).await.unwrap();
                id
            })
        });
        within(20, futures_util::future::select_all(waits)).await.0
    }

    /// Waits until the leader's membership has exactly these voters, and a quorum knows it: before,
    /// the old voters are still needed for an election.
    pub(super) async fn voters(&self, expected: &[u64]) {
        let reached = async {
            loop {
                for engine in self.engines.values() {
                    let status = engine.status();
                    let metrics = engine.inner.raft.metrics().borrow_watched().clone();
                    let settled = metrics.membership_config == metrics.committed_membership_config
                        && metrics.membership_config.membership().get_joint_config().len() == 1;
                    let leads = engine.leadership().borrow().is_leader;
                    if leads && settled && status.voters.keys().eq(expected.iter()) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(30, reached).await;
    }

    /// Waits until these print one hash.
    pub(super) async fn same_state(&self, ids: &[u64], limit: Duration) -> StateHash {
        let reached = async {
            loop {
                let hashes: Vec<_> = ids.iter().map(|id| self.engine(*id).state_hash_now().unwrap()).collect();
                if hashes.windows(2).all(|pair| pair[0] == pair[1]) {
                    return hashes[0];
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(limit, reached).await;
        reached.unwrap_or_else(|_| {
            let status = |id: &u64| serde_json::to_string(&self.engine(*id).status()).unwrap();
            panic!("the replicas print no one hash in time: {:#?}", ids.iter().map(status).collect::<Vec<_>>())
        })
    }

    /// Makes a device forget its whole log behind a snapshot.
    pub(super) async fn purge(&self, id: u64) {
        let engine = self.engine(id);
        let raft = &engine.inner.raft;
        raft.trigger().snapshot().await.unwrap();
        let wait = raft.wait(Some(Duration::from_secs(10)));
        let covered = wait.metrics(|known| known.snapshot == known.last_applied, "a snapshot").await.unwrap();
        let upto = covered.snapshot.unwrap();
        raft.trigger().purge_log(upto.index).await.unwrap();
        wait.purged(Some(upto), "the log is purged").await.unwrap();
    }

    /// Waits until a device has a revision.
    pub(super) async fn reaches(&self, id: u64, revision: u64) {
        within(30, self.engine(id).revision().wait_for(|&known| known >= revision)).await.unwrap();
    }
}

/// How much slower a loaded machine may be than an idle one.
const SLACK: u64 = 4;

/// A limit that only a hanging test meets.
pub(super) async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(SLACK * seconds), future).await.expect("it happens in time")
}

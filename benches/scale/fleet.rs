//! A whole fleet in this process: the leader on a thread of its own, the other voters on another,
//! everyone else on a third.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use kith::config::Profile;
use kith::consensus::{Engine, EngineConfig, MirrorSettings, Presence, Replica};
use kith::resource::Timestamp;
use kith::storage::RealDisk;
use kith::store::{Batch, Key, Outcome, Write};
use tokio::runtime::{Builder, Handle, Runtime};

use super::meter;
use super::wire::{Air, End, member};

/// What the leader spent in a while.
pub struct Spent {
    pub span: Duration,
    pub cpu: Duration,
    pub messages: u64,
    pub received: u64,
    pub sent: u64,
    /// The most bytes that it held.
    pub peak: i64,
}

pub struct Fleet {
    air: Arc<Air>,
    folder: tempfile::TempDir,
    runtimes: Vec<Runtime>,
    /// The leader's threads that do not have its name.
    threads: BTreeSet<u32>,
    engines: BTreeMap<u64, Engine>,
    standbys: usize,
}

fn runtime(name: &'static str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().thread_name(name);
    if name == meter::LEADER {
        builder.on_thread_start(meter::is_leaders);
    }
    builder.build().expect("start a runtime")
}

impl Fleet {
    /// A fleet of so many devices beside its three voters.
    pub fn up(devices: u64, standbys: usize) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let before = meter::threads();
        let mut fleet = Self {
            air: Arc::default(),
            folder: folder.expect("make a folder"),
            runtimes: [meter::LEADER, "voters", "others"].map(runtime).into(),
            threads: BTreeSet::new(),
            engines: BTreeMap::new(),
            standbys,
        };
        let others: BTreeSet<u32> = meter::threads();
        let leader = fleet.start(1);
        let first = leader.clone();
        fleet
            .on(1)
            .block_on(fleet.on(1).spawn(async move { first.bootstrap(1, member(1)).await }))
            .expect("run")
            .expect("found a fleet");
        // What the engine started besides the runtimes, such as the thread of its log.
        fleet.threads = meter::threads().difference(&others).copied().collect();
        fleet.threads.retain(|id| !before.contains(id));
        for expected in 2..=devices + 3 {
            let (one, new) = (leader.clone(), member(expected));
            let id = fleet.on(1).block_on(fleet.on(1).spawn(async move { one.add_member(new).await }));
            assert_eq!(id.expect("run").expect("add a member"), expected);
            fleet.start(expected);
            if expected == 3 {
                fleet.wait("three voters", || leader.status().voters.len() == 3);
            }
        }
        fleet
    }

    fn on(&self, id: u64) -> Handle {
        self.runtimes[match id {
            1 => 0,
            2 | 3 => 1,
            _ => 2,
        }]
        .handle()
        .clone()
    }

    fn start(&mut self, id: u64) -> Engine {
        let contacts = self.engines.keys().copied().take(19).map(|other| (other, member(other))).collect();
        let config = EngineConfig {
            data_dir: self.folder.path().join(id.to_string()),
            disk: Arc::new(RealDisk),
            sizes: kith::storage::Sizes::default(),
            member_id: id,
            profile: Profile::Wan,
            wire: Arc::new(End { id, air: self.air.clone() }),
            wall: Arc::new(|| Timestamp(1_800_000_000_000)),
            client: id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            presence: Presence::default(),
            mirrors: MirrorSettings { standbys: self.standbys, poll: None, contacts },
        };
        let on = self.on(id);
        let started = on.block_on(on.spawn(Engine::start(config))).expect("run").expect("start an engine");
        self.engines.insert(id, started.clone());
        self.air.engines.lock().expect("the map is whole").insert(member(id).key, (started.clone(), on));
        started
    }

    fn wait(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let began = Instant::now();
        while !reached() {
            assert!(began.elapsed() < Duration::from_mins(10), "{what} in time: {:?}", self.engines[&1].status().pilot);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many have not got the leader's revision.
    pub fn late(&self) -> usize {
        let newest = *self.engines[&1].revision().borrow();
        self.engines.values().filter(|engine| *engine.revision().borrow() < newest).count()
    }

    /// Waits until everyone is a member to itself and has the leader's revision.
    pub fn current(&self) {
        let members = self.engines.len();
        self.wait("everyone current", || {
            self.late() == 0 && self.engines.values().all(|engine| engine.members().borrow().len() == members)
        });
    }

    /// All replicas print one hash.
    pub fn agree(&self) {
        let hash = |id: u64| self.on(id).block_on(self.engines[&id].state_hash()).expect("hash");
        for &id in self.engines.keys() {
            assert_eq!(hash(id), hash(1), "member {id}");
        }
    }

    pub fn cut(&self, cut: bool) {
        self.air.cut.store(cut, Relaxed);
    }

    /// What the leader spends while something goes on.
    pub fn measure(&self, during: impl FnOnce()) -> Spent {
        let traffic = || {
            let leader = &self.air.leader;
            [&leader.messages, &leader.received, &leader.sent].map(|count| count.load(Relaxed))
        };
        let (cpu, before, began) = (meter::cpu(&self.threads), traffic(), Instant::now());
        meter::peak();
        during();
        let after = traffic();
        Spent {
            span: began.elapsed(),
            cpu: meter::cpu(&self.threads).saturating_sub(cpu),
            messages: after[0] - before[0],
            received: after[1] - before[1],
            sent: after[2] - before[2],
            peak: meter::peak(),
        }
    }

    /// Writes documents of 512 bytes through the leader, `at_once` at a time, evenly over a time.
    pub fn write(&self, count: u64, at_once: u64, within: Duration) {
        let leader = self.engines[&1].clone();
        let writing = self.on(1).spawn(async move {
            let began = tokio::time::Instant::now();
            for first in (0..count).step_by(at_once as usize) {
                tokio::time::sleep_until(began + within.mul_f64(first as f64 / count as f64)).await;
                let writes =
                    (first..count.min(first + at_once)).map(|number| {
                        let key = Key::new("Test", "default", format!("doc-{:05}", number % 5000));
                        let body = format!("{number:0512}").into_bytes();
                        let leader = leader.clone();
                        async move {
                            leader.propose(Batch { checks: Vec::new(), writes: vec![Write::Put { key, body }] }).await
                        }
                    });
                for outcome in futures_util::future::join_all(writes).await {
                    assert!(matches!(outcome, Ok(Outcome::Applied { .. })), "{outcome:?}");
                }
            }
        });
        self.on(1).block_on(writing).expect("the writes are taken");
    }

    /// How many connections of the leader the tree leaves: whom it speaks with.
    pub fn roles(&self) -> String {
        let status = self.engines[&1].status();
        format!("{} voters, {} standbys, {} mirrors", status.voters.len(), status.learners.len(), status.mirrors.len())
    }

    pub fn down(self) {
        self.air.engines.lock().expect("the map is whole").clear();
        for (id, engine) in &self.engines {
            let engine = engine.clone();
            let on = self.on(*id);
            let _ = on.block_on(on.spawn(async move { engine.shutdown().await }));
        }
        drop(self.engines);
        for runtime in self.runtimes {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

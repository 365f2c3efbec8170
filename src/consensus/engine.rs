//! The engine of one device: its raft node, its replica, and the tasks around them. It decides
//! when to start and stop them; what they do is in the modules beside this one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::disk::DiskNote;
use super::guard::{Presence, Verdict};
use super::handover::Will;
use super::membership::Memory;
use super::message::Refusal;
use super::mirror::{MirrorSettings, Mirroring};
use super::network::Network;
use super::peers::{Members, Peers};
use super::propose::{Proposal, Session};
use super::receive::Receiving;
use super::timing::Timing;
use crate::config::Profile;
use crate::identity::{DeviceKey, Member};
use crate::resource::Timestamp;
use crate::storage::{self, Disk, Log, Machine, Sizes, State, StorageError, TypeConfig};
use crate::transport::Wire;

/// Tells the wall clock.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Answers the requests that other rooms send through [`Engine::ask`] and [`Engine::ask_leader`].
pub type AppHandler = Arc<dyn Fn(DeviceKey, Vec<u8>) -> BoxFuture<'static, Vec<u8>> + Send + Sync>;

/// Proposals waiting to be carried; the next one waits for room.
const PROPOSAL_QUEUE: usize = 256;
/// Reads waiting for a read index.
const READ_QUEUE: usize = 256;

/// What an engine needs to start.
#[derive(Clone)]
pub struct EngineConfig {
    /// Folder of the log, the state and arriving snapshots.
    pub data_dir: PathBuf,
    /// The disk that has them.
    pub disk: Arc<dyn Disk>,
    /// How much of them is in memory, and in how large pieces they are written.
    pub sizes: Sizes,
    /// This device's member id; never used by another device before.
    pub member_id: u64,
    /// Timing of heartbeats and elections.
    pub profile: Profile,
    /// Reaches the other members.
    pub wire: Arc<dyn Wire>,
    /// Tells the wall clock that stamps transactions.
    pub wall: WallClock,
    /// A random number that no other start of any engine has: it tells this run's transactions.
    pub client: u64,
    /// How this device takes part in a large fleet.
    pub mirrors: MirrorSettings,
    /// Which epoch and run this is, and whether it may take part.
    pub presence: Presence,
}

/// The engine can not do this.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log or the state.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The raft node does not start, or has stopped.
    #[error("the consensus of this device has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The fleet refuses, and would again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader did it in time.
    #[error("no leader with a quorum answered within {waited:?}: {why}")]
    Unavailable {
        /// How long it was tried.
        waited: Duration,
        /// What this device sees of the fleet.
        why: String,
    },
    /// One peer did not answer.
    #[error("ask {peer}: {reason}")]
    Peer {
        /// The peer's name.
        peer: String,
        /// Why there is no answer.
        reason: String,
    },
    /// The fleet exists already.
    #[error("this device is part of a fleet already")]
    AlreadyFormed,
}

/// Who leads, as this device knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader that this device follows, or itself; it may be gone already.
    pub leader: Option<u64>,
    /// Whether this device leads.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
}

/// The engine of one device. Clones are handles to the same one.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) id: u64,
    pub(super) raft: Raft<TypeConfig, Machine>,
    pub(super) state: State,
    pub(super) log: Log,
    pub(super) peers: Arc<Peers>,
    pub(super) timing: Timing,
    pub(super) wall: WallClock,
    pub(super) session: Session,
    pub(super) leadership: watch::Receiver<Leadership>,
    /// When the current term of leading began, for a leader.
    pub(super) led_since: Mutex<Option<Instant>>,
    pub(super) proposals: mpsc::Sender<Proposal>,
    pub(super) reads: mpsc::Sender<oneshot::Sender<Result<u64, String>>>,
    pub(super) mirroring: Mirroring,
    pub(super) membership: tokio::sync::Mutex<()>,
    pub(super) pilot: Mutex<Memory>,
    pub(super) will: Mutex<Will>,
    pub(super) receiving: Mutex<Option<Receiving>>,
    pub(super) disk_note: DiskNote,
    pub(super) app: ArcSwapOption<AppHandler>,
    pub(super) enter: ArcSwapOption<AppHandler>,
    pub(super) vouched: watch::Sender<Members>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Engine {
    /// Opens the log and the state, and starts to take part in the fleet. A device that is not a
    /// member yet waits for a leader to write to it, or for [`Engine::bootstrap`].
    pub async fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let (log, machine) = storage::open_sized(&config.disk, &config.data_dir, config.sizes)?;
        let state = machine.state().clone();
        let timing = Timing::new(config.profile);
        let peers = Arc::new(Peers::new(config.member_id, config.wire, config.presence));
        let network = Network {
            peers: peers.clone(),
            state: state.clone(),
            append_timeout: timing.append(),
            quiet: timing.quiet(),
            patience: timing.patience(),
        };
        let settings = timing.raft().validate().map_err(stopped)?;
        let raft =
            Raft::new(config.member_id, Arc::new(settings), network, log.clone(), machine).await.map_err(stopped)?;
        let (proposals, proposed) = mpsc::channel(PROPOSAL_QUEUE);
        let (reads, asked) = mpsc::channel(READ_QUEUE);
        let (leads, leadership) = watch::channel(Leadership::default());
        let inner = Inner {
            id: config.member_id,
            raft,
            state,
            log,
            peers,
            timing,
            wall: config.wall,
            session: Session::new(config.client),
            leadership,
            led_since: Mutex::default(),
            proposals,
            reads,
            mirroring: Mirroring::new(config.mirrors, config.profile, config.client),
            membership: tokio::sync::Mutex::default(),
            pilot: Mutex::default(),
            will: Mutex::default(),
            receiving: Mutex::default(),
            disk_note: DiskNote::default(),
            app: ArcSwapOption::empty(),
            enter: ArcSwapOption::empty(),
            vouched: watch::Sender::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.note_server(&leads);
        engine.spawn("watch leadership", engine.clone().watch_server(leads));
        engine.spawn("keep pulse", engine.clone().keep_pulse());
        engine.spawn("carry proposals", engine.clone().carry_proposals(proposed));
        engine.spawn("answer reads", engine.clone().answer_reads(asked));
        engine.spawn("follow the fleet as a mirror", engine.clone().follow());
        engine.spawn("pass on who was heard", engine.clone().pass_on());
        engine.spawn("pilot", engine.clone().fly());
        engine.spawn("follow the verdict", engine.clone().obey());
        engine.spawn("find the fleet", engine.clone().say_hello());
        engine.elect_alone().await?;
        Ok(engine)
    }

    /// Makes this device the first member of a new fleet, and waits until it leads it.
    pub async fn bootstrap(&self, member_id: u64, member: Member) -> Result<(), EngineError> {
        if member_id != self.inner.id {
            return Err(Refusal::Unknown { id: member_id }.into());
        }
        match self.inner.raft.initialize(BTreeMap::from([(member_id, member)])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Err(EngineError::AlreadyFormed),
            Err(error) => return Err(stopped(error)),
        }
        let mut leadership = self.leadership();
        let leads = leadership.wait_for(|known| known.is_leader);
        match tokio::time::timeout(super::timing::MEMBERSHIP_TIMEOUT, leads).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.unavailable(super::timing::MEMBERSHIP_TIMEOUT)),
        }
    }

    /// This device's member id.
    pub fn member_id(&self) -> u64 {
        self.inner.id
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Everyone in the replicated membership, as it changes. A change shows here as soon as it is
    /// in this device's log.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.inner.peers.members()
    }

    /// Takes the requests that other rooms send from device to device. Without a handler they fail.
    pub fn set_app_handler(&self, handler: AppHandler) {
        self.inner.app.store(Some(Arc::new(handler)));
    }

    /// Stops taking part, and makes the state durable. Other handles fail from now on.
    pub async fn shutdown(&self) -> Result<(), EngineError> {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let stopped_raft = self.inner.raft.shutdown().await;
        self.inner.tasks.wait().await;
        *self.inner.receiving.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let settled_log = self.inner.log.settle().await;
        self.inner.state.settle().await?;
        settled_log.map_err(stopped)?;
        stopped_raft.map_err(stopped)
    }

    /// The reason why the consensus of this device has stopped by itself, such as a full disk.
    pub fn failure(&self) -> Option<String> {
        if self.inner.stop.is_cancelled() {
            return None;
        }
        self.inner.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Waits until the consensus of this device stops by itself, and says why. The replica can
    /// still be read; writing needs a new start. Never ends for an engine that is shut down.
    pub async fn failed(&self) -> String {
        let mut server = self.inner.raft.server_metrics();
        while server.changed().await.is_ok() {}
        match self.failure() {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    pub(super) fn unavailable(&self, waited: Duration) -> EngineError {
        EngineError::Unavailable { waited, why: self.why() }
    }

    /// Runs a task until it ends or the engine stops.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        let span = tracing::info_span!("engine", task = name, member = self.inner.id);
        let run = async move {
            // Every task may be dropped at any await: what it holds is either in the log or lost
            // to a caller who is told so.
            stop.run_until_cancelled(task).await;
        };
        self.inner.tasks.spawn(run.instrument(span));
    }

    /// A single voter needs no one's vote, so it does not wait for the election timeout.
    async fn elect_alone(&self) -> Result<(), EngineError> {
        let alone = {
            let metrics = self.inner.raft.server_metrics();
            let server = metrics.borrow_watched();
            server.membership_config.voter_ids().eq([self.inner.id])
        };
        if alone && *self.verdict().borrow() == Verdict::Clear {
            self.inner.raft.trigger().elect(false).await.map_err(stopped)
        } else {
            Ok(())
        }
    }

    async fn watch_server(self, leads: watch::Sender<Leadership>) {
        let mut server = self.inner.raft.server_metrics();
        let mut mirrors = self.inner.state.mirrors();
        loop {
            // Cancel-safe: watches.
            let changed = tokio::select! {
                biased;
                changed = server.changed() => changed.is_ok(),
                changed = mirrors.changed() => changed.is_ok(),
            };
            if !changed {
                break;
            }
            mirrors.borrow_and_update();
            self.note_server(&leads);
        }
        // The raft node has stopped: nobody leads from here.
        leads.send_modify(|known| *known = Leadership { leader: None, is_leader: false, term: known.term });
    }

    /// The members are those of openraft's membership, as soon as it is in the log, and the mirrors.
    pub(super) fn publish_members(&self) {
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let mut members = (**self.inner.state.mirrors().borrow()).clone();
        members.extend(server.membership_config.nodes().map(|(&id, member)| (id, member.clone())));
        self.inner.peers.set_voters(server.membership_config.voter_ids().collect());
        self.inner.peers.set_members(members);
    }

    fn note_server(&self, leads: &watch::Sender<Leadership>) {
        self.publish_members();
        let server = self.inner.raft.server_metrics().borrow_watched().clone();
        let is_leader = server.state == openraft::ServerState::Leader;
        let now = Leadership { leader: server.current_leader, is_leader, term: server.vote.leader_id.term };
        leads.send_if_modified(|known| {
            if *known == now {
                return false;
            }
            if now.is_leader && (!known.is_leader || known.term != now.term) {
                *self.inner.led_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            *known = now;
            true
        });
    }
}

pub(super) fn stopped(error: impl std::fmt::Display) -> EngineError {
    EngineError::Stopped { reason: error.to_string() }
}

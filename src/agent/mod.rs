//! Composition: it starts the rooms, feeds the leader's loop and the device's loop, and ends them
//! in order. It decides nothing about the fleet.
#![expect(clippy::disallowed_methods, reason = "the agent is where clock, files and chance come from")]

mod admission;
mod authority;
pub(crate) mod backup;
mod blobs;
mod bound;
pub(crate) mod cleanup;
mod clearing;
pub mod clock;
mod contact;
mod control;
mod device;
mod discovery;
mod enter;
pub(crate) mod exchange;
mod extra;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod hardware;
mod hooking;
pub(crate) mod journal;
mod keeper;
mod keyring;
mod leader;
mod local;
mod lock;
mod manifests;
mod memory;
pub mod node;
mod peers;
mod plug;
mod plugged;
mod policy;
mod prepared;
mod pressure;
mod prober;
mod programs;
mod provisions;
mod pulls;
mod recovery;
mod rehearse;
mod reports;
mod roll;
mod rollouts;
mod scrape;
mod secrets;
mod serve;
mod shelter;
mod signals;
mod statics;
pub(crate) mod status;
mod steer;
mod systemd;
pub mod tasks;
mod unsound;
mod upgrading;
mod user_ids;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::{Api, ApiConfig};
use crate::config::{Config, ConfigError, Setting, Settled};
use crate::consensus::mirror::poll_interval;
use crate::consensus::{Engine, EngineConfig, EngineError, MirrorSettings, Presence};
use crate::identity::{Enrolment, Identity, IdentityError, Run, Stamp, Trust};
use crate::kill_point;
use crate::network::NetworkError;
use crate::runtime::{Runtime, RuntimeError, Shims};
use crate::transport::{BindError, Transport, TransportConfig};
use crate::upgrade::{launch, release};
use admission::PeerService;
pub(crate) use authority::SEAL;
use authority::Signer;
use clock::Clock;
use control::Control;
use keyring::Keyring;
use programs::Programs;
use reports::Reports;
use rollouts::Rollouts;
use scrape::Scrape;
use signals::Signals;
use tasks::Tasks;
use workloads::Workloads;

/// How often an agent without a fleet looks whether its device was enrolled.
const ENROLMENT_POLL: Duration = Duration::from_millis(500);

/// How long an agent that stops waits for another device to take over the lead.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// How often an agent whose disk is full looks whether there is room.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// Polls of a mirror in the time after which a silent device is lost: one for each level of the tree
/// of a fleet of thousands, and two to spare.
const POLLS_UNTIL_LOST: u32 = 5;

/// The agent can not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Keys or enrolment.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer endpoint.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Log, state, consensus.
    #[error("start the engine")]
    Engine(#[from] EngineError),
    /// The log or the state of the only member can not be trusted.
    #[error(
        "{why}. This device is the only member of its fleet, so it does not start and nothing was changed: kith \
         restore FILE begins the fleet again from a backup"
    )]
    Alone {
        /// What is wrong, and what is left.
        why: crate::storage::StorageError,
    },
    /// Containers.
    #[error("start the container runtime")]
    Runtime(#[from] RuntimeError),
    /// TLS for probes.
    #[error("set up TLS for probes")]
    Probes(#[from] rustls::Error),
    /// What the containers of a pod share.
    #[error("look after the networks of pods")]
    Network(#[from] NetworkError),
    /// Images.
    #[error("open the image store")]
    Images(#[from] crate::images::ImageError),
    /// The socket on which `kith` reaches the agent.
    #[error(
        "make the socket for kith: run_dir in agent.toml must be writable, on a disk with sockets, and a short path"
    )]
    Socket(#[from] crate::api::ServeError),
    /// Another agent runs here.
    #[error("another agent{pid} runs with {key} = {folder:?}: stop it first, or give this one its own {key}")]
    Taken {
        /// The setting.
        key: &'static str,
        /// Its value.
        folder: std::path::PathBuf,
        /// The other one's pid, as ` (pid 7)`; empty when it is not known.
        pid: String,
    },
    /// A file, folder or socket of the agent.
    #[error("{action}")]
    File {
        /// What was done, and to what.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

fn file(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> AgentError {
    let action = action.into();
    move |source| AgentError::File { action, source }
}

/// Why the agent ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody stopped it.
    Stopped,
    /// This device left its fleet.
    Left,
    /// The engine gave up: a restart may mend it.
    Broken(String),
    /// What made the engine give up is over.
    Mended,
    /// Another program takes over.
    Exchanged,
    /// The agent has to start again: as a new member, with another log and state, or with other settings.
    Again,
}

/// Runs until the agent is told to stop. Containers live on. `read` gives the settings as they are now.
pub async fn run(
    settled: Settled,
    read: impl Fn() -> Result<Settled, ConfigError> + Send + 'static,
) -> Result<(), AgentError> {
    memory::prepare();
    let (listed, config) = (settled.list(), settled.config);
    let mut signals = Signals::new(config.clone(), Box::new(read)).map_err(file("listen to signals"))?;
    for dir in [&config.data_dir, &config.run_dir, &config.log_dir] {
        std::fs::create_dir_all(dir).map_err(file(format!("make {}", dir.display())))?;
    }
    let data = lock::Lock::take(&config.data_dir, "data_dir").await?;
    let _alone = [data, lock::Lock::take(&config.run_dir, "run_dir").await?];
    let identity = Arc::new(Identity::load_or_create(&config.data_dir)?);
    let Some(enrolment) = wait_for_enrolment(&config, &mut signals).await? else { return Ok(()) };
    let enrolment = exchange::finish(&config.data_dir, enrolment)?;
    let config = Arc::new(config);
    let started = Agent::start(config.clone(), listed, identity, enrolment).await;
    let mut agent = started.map_err(|error| unsound::after(&config.data_dir, error))?;
    agent.tasks.spawn("give memory back", memory::give_back(agent.engine.clone()));
    let mut end = agent.until_end(&mut signals).await;
    if let End::Broken(why) = &end
        && let Some(trouble) = agent.engine.disk_trouble()
    {
        tracing::error!(why, trouble, "only reads are served until there is room; then the agent starts again");
        end = agent.until_room(&mut signals).await;
    }
    tracing::info!(?end, "the agent ends, its containers live on");
    agent.stop(end).await
}

/// Becomes a new run of the agent in the same process, for whoever watches its pid. Returns only
/// when that fails.
fn start_again() -> AgentError {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    launch::begin_anew(&mut command);
    signals::ignore_reloads();
    file("start the agent again")(command.args(arguments).exec())
}

/// The device's enrolment, as soon as there is one; `None` when the agent is stopped before.
async fn wait_for_enrolment(config: &Config, signals: &mut Signals) -> Result<Option<Enrolment>, AgentError> {
    let mut alone = None;
    loop {
        systemd::alive();
        if let Some(enrolment) = Enrolment::load(&config.data_dir)? {
            if let Some(tasks) = alone {
                Tasks::finish(&tasks).await;
            }
            return Ok(Some(enrolment));
        }
        if alone.is_none() {
            tracing::info!("this device is in no fleet yet: kith init makes one, kith join TOKEN enters one");
            alone = Some(Workloads::run_alone(config).await);
            systemd::ready("waiting for kith init or kith join");
        }
        // Cancel-safe: signals and a timer.
        tokio::select! {
            end = signals.any() => return if end == End::Again { Err(start_again()) } else { Ok(None) },
            () = tokio::time::sleep(ENROLMENT_POLL) => {}
        }
    }
}

/// A running agent.
struct Agent {
    config: Arc<Config>,
    engine: Engine,
    transport: Transport,
    tasks: Tasks,
    ending: mpsc::Receiver<End>,
    /// `None` on a witness, which runs nothing.
    runtime: Option<Shims>,
}

impl Agent {
    async fn start(
        config: Arc<Config>,
        listed: Vec<Setting>,
        identity: Arc<Identity>,
        enrolment: Enrolment,
    ) -> Result<Self, AgentError> {
        let clock = Arc::new(Clock::default());
        let tasks = Tasks::new();
        let witness = enrolment.members.get(&enrolment.member_id).is_some_and(|member| member.witness);
        let range = shelter::range(&config, enrolment.member_id);
        let workloads = if witness { None } else { Some(Workloads::open(&config, range).await?) };
        let trust = Trust::in_members(enrolment.members.values());
        let transport =
            Transport::bind(TransportConfig::new(config.peer_listen, identity.clone(), trust.clone(), config.profile))?;
        let fingerprint = hardware::fingerprint();
        let begun = Run::begin(&config.data_dir, &fingerprint)?;
        let verdict = enter::first_verdict(&enrolment, begun.moved, &config.data_dir);
        let presence = Presence { stamp: Stamp { epoch: enrolment.epoch, run: begun.run }, verdict };
        let engine = Self::engine(&config, &enrolment, &transport, &clock, presence).await?;
        let signer = Signer { engine: engine.clone(), identity: identity.clone(), member_id: enrolment.member_id };
        let keyring = Keyring::new(engine.clone(), identity.clone(), enrolment.member_id);
        let reports = Arc::new(Reports::default());
        let (ends, ending) = mpsc::channel(1);
        let programs = Programs::new(&engine, &config, &clock, &enrolment.name, &ends);
        peers::attend(&engine, &signer, &keyring, &programs, &reports);
        let settings = leader::settings(&config);
        let control = Arc::new(Control {
            engine: engine.clone(),
            signer: signer.clone(),
            clock: clock.clone(),
            config: config.clone(),
            settings,
            listed,
            fleet: enrolment.fleet.clone(),
            name: enrolment.name.clone(),
            authority: enrolment.authority.clone(),
            programs: programs.clone(),
            ending: ends.clone(),
        });
        let images = workloads.as_ref().map(|workloads| &workloads.images);
        let exchange = blobs::between(&engine, &transport, images, &config, &enrolment.name);
        let scrape = Arc::new(Scrape::new(&engine, &transport, images.cloned(), &enrolment));
        let corner = extra::Corner { control, scrape: scrape.clone(), exchange: exchange.clone() };
        let api = Self::api(corner, &keyring, &transport, workloads.as_ref(), &enrolment, &tasks);
        transport.serve(Self::service(&engine, &api, &clock, &tasks, &enrolment));
        scrape.listen(&config.metrics, &tasks).await?;
        serve::unix(&api, &config, &tasks)?;
        let keeper = keeper::Keeper {
            engine: engine.clone(),
            config: config.clone(),
            clock: clock.clone(),
            images: workloads.as_ref().map(|workloads| workloads.images.clone()),
            local: workloads.as_ref().map(|workloads| workloads.local.subscribe()),
            enrolment: enrolment.clone(),
            identity: identity.clone(),
            trust,
        };
        keeper.spawn(&tasks, signer.clone(), keyring.clone());
        serve::tls(&api, &config, &identity, &enrolment, signer, &tasks).await?;
        tasks.spawn("lead", leader::lead(engine.clone(), clock.clone(), settings, leader::former(&enrolment)));
        let applicant = enter::Applicant {
            engine: engine.clone(),
            config: config.clone(),
            identity: identity.clone(),
            enrolment: enrolment.clone(),
            hardware: fingerprint,
            ending: ends,
        };
        applicant.spawn(&tasks, transport.clone(), reports.clone());
        let ties = workloads::Ties { keyring: keyring.clone(), exchange };
        workloads::attend(workloads.as_ref(), &config, &ties, (&clock, &reports), &enrolment, &tasks)?;
        programs.spawn(&tasks, workloads.is_some());
        let rollouts = Rollouts {
            engine: engine.clone(),
            clock: clock.clone(),
            lost_after: settings.lost_after,
            waits: programs.waits(),
        };
        tasks.spawn("lead rollouts", rollouts.oversee());
        reports.spawn(&tasks, &engine, &clock);
        systemd::ready("running");
        tracing::info!(name = enrolment.name, peers = %config.peer_listen, api = %config.api_listen, "the agent runs");
        Ok(Self { config, engine, transport, tasks, ending, runtime: workloads.map(|workloads| workloads.runtime) })
    }

    /// The API, which nobody can reach yet.
    fn api(
        extra: extra::Corner,
        keyring: &Keyring,
        transport: &Transport,
        workloads: Option<&Workloads>,
        enrolment: &Enrolment,
        tasks: &Tasks,
    ) -> Api {
        let engine = &keyring.engine;
        let clock = extra.control.clock.clone();
        let connections = extra.control.config.api_connections;
        Api::new(ApiConfig {
            replica: Arc::new(engine.clone()),
            peers: Arc::new(serve::Peers { engine: engine.clone(), transport: transport.clone() }),
            secrecy: Arc::new(keyring.clone()),
            log_dir: extra.control.config.log_dir.clone(),
            extra: Arc::new(extra),
            runtime: workloads.map(|workloads| Arc::new(workloads.runtime.clone()) as Arc<dyn Runtime>),
            node_name: enrolment.name.clone(),
            version: release::version().into(),
            connections,
            clock: Arc::new(move || clock.now()),
            shutdown: tasks.stopping(),
        })
    }

    /// What this device answers to peers and joiners.
    fn service(
        engine: &Engine,
        api: &Api,
        clock: &Arc<Clock>,
        tasks: &Tasks,
        enrolment: &Enrolment,
    ) -> Arc<PeerService> {
        Arc::new(PeerService {
            engine: engine.clone(),
            api: api.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            fleet: enrolment.fleet.clone(),
            authority: enrolment.authority.clone(),
        })
    }

    /// The engine, which hears nobody whom the fleet had fenced before the last stop.
    async fn engine(
        config: &Config,
        enrolment: &Enrolment,
        transport: &Transport,
        clock: &Arc<Clock>,
        presence: Presence,
    ) -> Result<Engine, AgentError> {
        let wall = clock.clone();
        let engine = Engine::start(EngineConfig {
            data_dir: config.data_dir.clone(),
            disk: Arc::new(crate::storage::RealDisk),
            sizes: sizes(config),
            member_id: enrolment.member_id,
            profile: config.profile,
            wire: Arc::new(transport.clone()),
            wall: Arc::new(move || wall.now()),
            client: rand::random(),
            mirrors: mirror_settings(config, enrolment),
            presence,
        })
        .await?;
        clock.raise(engine.last_change());
        match roll::everyone(&engine) {
            Ok(everyone) => engine.set_roll(roll::by_member(&everyone, &engine.members().borrow().clone())),
            Err(why) => tracing::error!(why, "what the fleet knows of its devices can not be read"),
        }
        Ok(engine)
    }

    async fn until_end(&mut self, signals: &mut Signals) -> End {
        // Cancel-safe: signals, a channel and a watch.
        tokio::select! {
            end = signals.any() => end,
            Some(end) = self.ending.recv() => end,
            why = self.engine.failed() => End::Broken(why),
        }
    }

    /// After the disk was full: serves what the replica holds until there is room again.
    async fn until_room(&mut self, signals: &mut Signals) -> End {
        while self.engine.disk_trouble().is_some() {
            // Cancel-safe: signals, a channel and a timer.
            tokio::select! {
                end = signals.any() => return end,
                Some(end) = self.ending.recv() => return end,
                () = tokio::time::sleep(LOOK_FOR_ROOM) => {}
            }
        }
        End::Mended
    }

    async fn stop(self, end: End) -> Result<(), AgentError> {
        // While this device still answers: whoever writes through it notices nothing.
        if matches!(end, End::Stopped | End::Left | End::Again | End::Exchanged)
            && !self.engine.step_aside(HAND_OVER_WITHIN).await
        {
            tracing::info!("nobody could take over the lead at once; the others elect a leader");
        }
        self.tasks.finish().await;
        if let Err(error) = self.engine.shutdown().await {
            tracing::warn!(%error, "the engine did not end cleanly; its log will be replayed");
        }
        self.transport.shutdown().await;
        match end {
            End::Stopped => Ok(()),
            End::Broken(reason) => Err(EngineError::Stopped { reason }.into()),
            End::Mended | End::Again => Err(start_again()),
            End::Exchanged => {
                kill_point::reached("upgrade:handing-over");
                let error = launch::hand_over(&self.config.upgrade_dir());
                tracing::error!(
                    error = crate::resource::chain(&error),
                    "the new program does not start, this one goes on"
                );
                Err(start_again())
            }
            End::Left => serve::forget_fleet(&self.config, self.runtime),
        }
    }
}

/// How much memory the state of the fleet may take here.
fn sizes(config: &Config) -> crate::storage::Sizes {
    let storage = &config.storage;
    let gather = (storage.gather_bytes, storage.gather_entries);
    crate::storage::Sizes::of(storage.cache_bytes, gather, storage.events_bytes)
}

/// How this device takes part in a fleet that has mirrors. Silence travels up the tree poll by poll,
/// so several of them must fit into the time after which a device is lost.
fn mirror_settings(config: &Config, enrolment: &Enrolment) -> MirrorSettings {
    let within = Duration::from_secs(config.lost_after_seconds) / POLLS_UNTIL_LOST;
    MirrorSettings {
        standbys: config.standbys,
        poll: Some(poll_interval(config.profile).min(within)),
        contacts: enrolment.members.clone(),
    }
}

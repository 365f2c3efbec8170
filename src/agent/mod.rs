//! Composition: it starts the rooms, feeds the leader's loop and the device's loop, and ends them
//! in order. It decides nothing about the fleet.
#![expect(clippy::disallowed_methods, reason = "the agent is where clock, files and chance come from")]

mod admission;
mod authority;
pub mod clock;
mod control;
mod device;
mod extra;
pub mod hardware;
mod keeper;
mod leader;
mod lock;
pub mod node;
mod rehearse;
mod reports;
mod serve;
mod status;
pub mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::{Api, ApiConfig};
use crate::config::Config;
use crate::consensus::{Engine, EngineConfig, EngineError};
use crate::identity::{Enrolment, Identity, IdentityError, Trust};
use crate::images::ImageStore;
use crate::planner;
use crate::reconciler;
use crate::runtime::{RuntimeError, Shims, ShimsConfig};
use crate::transport::{BindError, Transport, TransportConfig};
use admission::PeerService;
use authority::Signer;
use clock::Clock;
use control::Control;
use reports::Reports;
use tasks::Tasks;

/// How often an agent without a fleet looks whether its device was enrolled.
const ENROLMENT_POLL: Duration = Duration::from_millis(500);

/// How often an agent whose disk is full looks whether there is room.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

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
    /// Containers.
    #[error("start the container runtime")]
    Runtime(#[from] RuntimeError),
    /// Images.
    #[error("open the image store")]
    Images(#[from] crate::images::ImageError),
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
enum End {
    /// Somebody stopped it.
    Stopped,
    /// This device left its fleet.
    Left,
    /// The engine gave up: a restart may mend it.
    Broken(String),
    /// What made the engine give up is over.
    Mended,
}

/// Runs until the agent is told to stop. Containers live on.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let mut signals = Signals::new().map_err(file("listen to signals"))?;
    for dir in [&config.data_dir, &config.run_dir, &config.log_dir] {
        std::fs::create_dir_all(dir).map_err(file(format!("make {}", dir.display())))?;
    }
    let _alone = [lock::Lock::take(&config.data_dir, "data_dir")?, lock::Lock::take(&config.run_dir, "run_dir")?];
    let identity = Arc::new(Identity::load_or_create(&config.data_dir)?);
    let Some(enrolment) = wait_for_enrolment(&config.data_dir, &mut signals).await? else { return Ok(()) };
    let mut agent = Agent::start(Arc::new(config), identity, enrolment).await?;
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
    file("start the agent again")(command.args(arguments).exec())
}

/// The signals that end the agent.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        // Cancel-safe: a signal that is not taken stays.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The device's enrolment, as soon as there is one; `None` when the agent is stopped before.
async fn wait_for_enrolment(data_dir: &Path, signals: &mut Signals) -> Result<Option<Enrolment>, AgentError> {
    let mut said = false;
    loop {
        if let Some(enrolment) = Enrolment::load(data_dir)? {
            return Ok(Some(enrolment));
        }
        if !said {
            tracing::info!("this device is in no fleet yet: kith init makes one, kith join TOKEN enters one");
            serve::notify_ready("waiting for kith init or kith join");
            said = true;
        }
        // Cancel-safe: signals and a timer.
        tokio::select! {
            () = signals.any() => return Ok(None),
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
    left: mpsc::Receiver<()>,
    runtime: Shims,
}

impl Agent {
    async fn start(config: Arc<Config>, identity: Arc<Identity>, enrolment: Enrolment) -> Result<Self, AgentError> {
        let clock = Arc::new(Clock::default());
        let tasks = Tasks::new();
        let runtime = Shims::new(shims(&config)?)?;
        runtime.sweep().await?;
        let images = Arc::new(ImageStore::open(&config.data_dir.join("images"))?);
        let trust = Trust::in_members(enrolment.members.values());
        let transport =
            Transport::bind(TransportConfig::new(config.peer_listen, identity.clone(), trust.clone(), config.profile))?;
        let wall = clock.clone();
        let engine = Engine::start(EngineConfig {
            data_dir: config.data_dir.clone(),
            member_id: enrolment.member_id,
            profile: config.profile,
            wire: Arc::new(transport.clone()),
            wall: Arc::new(move || wall.now()),
            client: rand::random(),
        })
        .await?;
        let signer = Signer { engine: engine.clone(), identity: identity.clone(), member_id: enrolment.member_id };
        let answering = signer.clone();
        engine.set_app_handler(Arc::new(move |from, request| {
            let answer = answering.answer(from, &request);
            Box::pin(async move { answer })
        }));
        let (leaving, left) = mpsc::channel(1);
        let settings = planner::Settings { lost_after: Duration::from_secs(config.lost_after_seconds) };
        let control = Arc::new(Control {
            engine: engine.clone(),
            signer: signer.clone(),
            clock: clock.clone(),
            config: config.clone(),
            settings,
            fleet: enrolment.fleet.clone(),
            name: enrolment.name.clone(),
            authority: enrolment.authority.clone(),
            left: leaving,
        });
        let told = clock.clone();
        let api = Api::new(ApiConfig {
            replica: Arc::new(engine.clone()),
            peers: Arc::new(serve::Peers { engine: engine.clone(), transport: transport.clone() }),
            extra: Arc::new(extra::Corner(control)),
            log_dir: config.log_dir.clone(),
            node_name: enrolment.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            clock: Arc::new(move || told.now()),
            shutdown: tasks.stopping(),
        });
        transport.serve(Arc::new(PeerService {
            engine: engine.clone(),
            api: api.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            fleet: enrolment.fleet.clone(),
            authority: enrolment.authority.clone(),
        }));
        serve::unix(&api, &config.run_dir.join("kith.sock"), &tasks);
        let keeper = keeper::Keeper {
            engine: engine.clone(),
            config: config.clone(),
            clock: clock.clone(),
            images: images.clone(),
            enrolment: enrolment.clone(),
            identity: identity.clone(),
            trust,
        };
        keeper.spawn(&tasks, signer.clone());
        serve::tls(&api, &config, &identity, &enrolment, signer, &tasks).await?;
        tasks.spawn("lead", leader::lead(engine.clone(), clock.clone(), settings));
        Self::spawn_device(&config, &engine, &runtime, images, &clock, &enrolment, &tasks);
        serve::notify_ready("running");
        tracing::info!(name = enrolment.name, peers = %config.peer_listen, api = %config.api_listen, "the agent runs");
        Ok(Self { config, engine, transport, tasks, left, runtime })
    }

    fn spawn_device(
        config: &Arc<Config>,
        engine: &Engine,
        runtime: &Shims,
        images: Arc<ImageStore>,
        clock: &Arc<Clock>,
        enrolment: &Enrolment,
        tasks: &Tasks,
    ) {
        let reports = Arc::new(Reports::default());
        let hardware = hardware::Hardware::read(&config.data_dir);
        let ip = keeper::addresses(config).first().map(|address| address.ip().to_string()).unwrap_or_default();
        let node = reconciler::NodeContext { name: enrolment.name.clone(), ip, memory: hardware.memory };
        let device = device::Device {
            engine: engine.clone(),
            runtime: Arc::new(runtime.clone()),
            images,
            reports: reports.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            node,
            settings: reconciler::Settings { pids_limit: config.pids_limit, ..reconciler::Settings::default() },
        };
        tasks.spawn("look after the device", device.run());
        let (engine, clock) = (engine.clone(), clock.clone());
        tasks.spawn("report", async move { reports.deliver(engine, move || clock.now()).await });
    }

    async fn until_end(&mut self, signals: &mut Signals) -> End {
        // Cancel-safe: signals, a channel and a watch.
        tokio::select! {
            () = signals.any() => End::Stopped,
            Some(()) = self.left.recv() => End::Left,
            why = self.engine.failed() => End::Broken(why),
        }
    }

    /// After the disk was full: serves what the replica holds until there is room again.
    async fn until_room(&mut self, signals: &mut Signals) -> End {
        while self.engine.disk_trouble().is_some() {
            // Cancel-safe: signals, a channel and a timer.
            tokio::select! {
                () = signals.any() => return End::Stopped,
                Some(()) = self.left.recv() => return End::Left,
                () = tokio::time::sleep(LOOK_FOR_ROOM) => {}
            }
        }
        End::Mended
    }

    async fn stop(self, end: End) -> Result<(), AgentError> {
        self.tasks.finish().await;
        if let Err(error) = self.engine.shutdown().await {
            tracing::warn!(%error, "the engine did not end cleanly; its log will be replayed");
        }
        self.transport.shutdown().await;
        match end {
            End::Stopped => Ok(()),
            End::Broken(reason) => Err(EngineError::Stopped { reason }.into()),
            End::Mended => Err(start_again()),
            End::Left => serve::forget_fleet(&self.config, self.runtime),
        }
    }
}

fn shims(config: &Config) -> Result<ShimsConfig, AgentError> {
    Ok(ShimsConfig {
        run_dir: config.run_dir.clone(),
        scratch_dir: config.data_dir.join("scratch"),
        log_dir: config.log_dir.clone(),
        cgroup: config.cgroup.clone(),
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
        memory_max: None,
        exe: std::env::current_exe().map_err(file("find this program"))?,
    })
}

//! What a device needs to run containers, and the loops that look after them: with its fleet, or alone
//! while it is in none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::blobs::Exchange;
use super::clock::Clock;
use super::contact::Contact;
use super::keyring::Keyring;
use super::local::Local;
use super::reports::Reports;
use super::secrets::Secrets;
use super::statics::Shown;
use super::tasks::Tasks;
use super::user_ids::Ranges;
use super::{
    AgentError, device, file, hardware, keeper, plug, policy, pressure, prober, provisions, shelter, steer, systemd,
};
use crate::config::{Config, Range};
use crate::identity::Enrolment;
use crate::images::{ImageStore, Puller};
use crate::kill_point;
use crate::network::sandbox::{Sandboxes, SandboxesConfig};
use crate::probing::Asker;
use crate::reconciler;
use crate::runtime::{Shims, ShimsConfig, is_in_memory};
use crate::volumes::Volumes;

/// How often a witness shows that it lives.
const LIVE: Duration = Duration::from_mins(1);

/// Looks after the pods of the fleet that are bound here, and after static ones; a witness has none.
pub(super) fn attend(
    workloads: Option<&Workloads>,
    config: &Config,
    ties: &Ties,
    (clock, reports): (&Arc<Clock>, &Arc<Reports>),
    enrolment: &Enrolment,
    tasks: &Tasks,
) -> Result<(), AgentError> {
    let Some(workloads) = workloads else {
        tasks.spawn("show that the witness lives", live());
        return Ok(());
    };
    workloads.spawn(config, Some(ties), &enrolment.name, (clock, reports), tasks)?;
    tasks.spawn("follow the node", steer::follow_node(ties.keyring.engine.clone(), enrolment.name.clone()));
    Ok(())
}

/// What ties a device to its fleet.
pub(super) struct Ties {
    pub(super) keyring: Keyring,
    /// Layers of images from other devices.
    pub(super) exchange: Option<Arc<Exchange>>,
}

/// What a device needs to run containers.
pub(super) struct Workloads {
    pub(super) runtime: Shims,
    pub(super) sandboxes: Sandboxes,
    pub(super) images: Arc<ImageStore>,
    volumes: Arc<Volumes>,
    /// What this device knows of itself.
    pub(super) local: Arc<watch::Sender<Local>>,
}

impl Workloads {
    pub(super) async fn open(config: &Config, range: Range) -> Result<Self, AgentError> {
        kill_point::arm(&config.run_dir);
        if !is_in_memory(&config.run_dir) {
            let folder = config.run_dir.display();
            tracing::warn!(
                "run_dir {folder} is not in memory: secrets that are variables of containers lie on the disk until \
                 their containers are removed; set it to a folder of a tmpfs, such as /run/kith"
            );
        }
        let runtime = Shims::new(shims(config)?)?;
        runtime.sweep().await?;
        let sandboxes = Sandboxes::open(&SandboxesConfig { run_dir: config.run_dir.clone(), range })?;
        let images = Arc::new(ImageStore::open(&config.data_dir.join("images"))?);
        let volumes = Volumes::open(provisions::places(config)).map_err(file("open the folders of volumes"))?;
        let local = Arc::new(watch::channel(Local::default()).0);
        Ok(Self { runtime, sandboxes, images, volumes: Arc::new(volumes), local })
    }

    /// Looks after static pods until the tasks are finished. A device that can not is told why: it may
    /// still enter a fleet.
    pub(super) async fn run_alone(config: &Config) -> Tasks {
        let tasks = Tasks::new();
        if config.manifests_dir.as_os_str().is_empty() {
            return tasks;
        }
        let host = hardware::host_name();
        let host = host.split('.').next().unwrap_or_default();
        let name = if config.name.is_empty() { host.to_owned() } else { config.name.clone() };
        // A device that is in no fleet has the part that no member has.
        let begun = match Self::open(config, config.pod_network.of_device(0)).await {
            Ok(workloads) => {
                let (clock, reports) = (Arc::new(Clock::default()), Arc::new(Reports::default()));
                workloads.spawn(config, None, &name, (&clock, &reports), &tasks)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            tracing::warn!(error = crate::resource::chain(&error), "static pods are not run before this is mended");
        }
        tasks
    }

    /// What brings images from registries, as agent.toml says.
    fn puller(&self, config: &Config, clock: &Arc<Clock>, exchange: Option<&Arc<Exchange>>) -> Arc<Puller> {
        let clock = clock.clone();
        let wall = Arc::new(move || clock.now());
        let puller = Puller::new((*self.images).clone(), config.registries.clone(), &config.images, wall);
        Arc::new(match exchange {
            Some(exchange) => puller.beside(exchange.clone().neighbourhood()),
            None => puller,
        })
    }

    fn spawn(
        &self,
        config: &Config,
        ties: Option<&Ties>,
        name: &str,
        (clock, reports): (&Arc<Clock>, &Arc<Reports>),
        tasks: &Tasks,
    ) -> Result<(), AgentError> {
        let keyring = ties.map(|ties| &ties.keyring);
        let hardware = hardware::Hardware::read(&config.data_dir);
        let ip = keeper::addresses(config).first().map(|address| address.ip().to_string()).unwrap_or_default();
        let node = reconciler::NodeContext { name: name.to_owned(), ip, memory: hardware.memory };
        let secrets = keyring.map(|keyring| {
            Secrets::open(config.data_dir.join("secrets"), keyring.clone(), tasks.clone())
                .map_err(file("open the secrets of this device"))
        });
        let secrets = secrets.transpose()?;
        let asker = Asker::new(Arc::new(self.runtime.clone()))?;
        let (probing, probes) = prober::Probing::new(asker.clone(), clock.clone(), reports.clone(), name.to_owned());
        let contact = Arc::new(Contact::open(&config.run_dir));
        if let Some(keyring) = keyring {
            tasks.spawn("keep contact with a quorum", contact.clone().keep(keyring.engine.clone()));
        }
        let statics = Shown::default();
        let device = device::Device {
            contact,
            statics: statics.clone(),
            asker,
            manifests_dir: config.manifests_dir.clone(),
            pods_at_once: config.pods_at_once,
            engine: keyring.map(|keyring| keyring.engine.clone()),
            volumes: self.volumes.clone(),
            secrets,
            volume_failures: Mutex::default(),
            runtime: Arc::new(self.runtime.clone()),
            sandboxes: self.sandboxes.clone(),
            unsheltered: shelter::Unsheltered::default(),
            images: self.images.clone(),
            puller: self.puller(config, clock, ties.and_then(|ties| ties.exchange.as_ref())),
            image_limits: (&config.images).into(),
            reports: reports.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            node,
            local: self.local.subscribe(),
            ranges: Mutex::new(Ranges::load(&config.run_dir, config.user_ids)),
            settings: reconciler::Settings {
                pids_limit: config.pids_limit,
                security: Arc::new(policy::of(config)),
                ..reconciler::Settings::default()
            },
        };
        tasks.spawn("attend to the pods' network", self.sandboxes.clone().attend());
        tasks.spawn("probe", probing.run());
        tasks.spawn("look after the device", device.run(probes));
        if !config.devices.is_empty() {
            tasks.spawn("follow what is plugged in", plug::follow(config.devices.clone(), self.local.clone()));
        }
        let watch = pressure::Watch {
            engine: keyring.map(|keyring| keyring.engine.clone()),
            statics,
            runtime: self.runtime.clone(),
            images: self.images.clone(),
            config: Arc::new(config.clone()),
            clock: clock.clone(),
            node: name.to_owned(),
            local: self.local.clone(),
        };
        tasks.spawn("watch memory and disk", watch.run());
        Ok(())
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

/// A witness has no loop that looks after pods: that its tasks come to run at all has to do.
async fn live() {
    loop {
        systemd::alive();
        tokio::time::sleep(systemd::rest(LIVE)).await;
    }
}

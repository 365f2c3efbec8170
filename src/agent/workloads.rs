//! What a device needs to run containers, and the loops that look after them: with its fleet, or alone
//! while it is in none.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::clock::Clock;
use super::keyring::Keyring;
use super::local::Local;
use super::reports::Reports;
use super::secrets::Secrets;
use super::tasks::Tasks;
use super::user_ids::Ranges;
use super::{
    AgentError, device, file, hardware, keeper, live, plug, policy, pressure, prober, provisions, shelter, steer,
};
use crate::config::{Config, Range};
use crate::identity::Enrolment;
use crate::images::{ImageStore, Puller};
use crate::kill_point;
use crate::network::sandbox::{Sandboxes, SandboxesConfig};
use crate::probing::Asker;
use crate::reconciler;
use crate::runtime::{Shims, ShimsConfig};
use crate::volumes::Volumes;

/// Looks after the pods of the fleet that are bound here, and after static ones; a witness has none.
pub(super) fn attend(
    workloads: Option<&Workloads>,
    config: &Config,
    keyring: &Keyring,
    (clock, reports): (&Arc<Clock>, &Arc<Reports>),
    enrolment: &Enrolment,
    tasks: &Tasks,
) -> Result<(), AgentError> {
    let Some(workloads) = workloads else {
        tasks.spawn("show that the witness lives", live());
        return Ok(());
    };
    workloads.spawn(config, Some(keyring), &enrolment.name, (clock, reports), tasks)?;
    tasks.spawn("follow the node", steer::follow_node(keyring.engine.clone(), enrolment.name.clone()));
    Ok(())
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
    fn puller(&self, config: &Config, clock: &Arc<Clock>) -> Arc<Puller> {
        let clock = clock.clone();
        let wall = Arc::new(move || clock.now());
        Arc::new(Puller::new((*self.images).clone(), config.registries.clone(), &config.images, wall))
    }

    fn spawn(
        &self,
        config: &Config,
        keyring: Option<&Keyring>,
        name: &str,
        (clock, reports): (&Arc<Clock>, &Arc<Reports>),
        tasks: &Tasks,
    ) -> Result<(), AgentError> {
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
        let device = device::Device {
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
            puller: self.puller(config, clock),
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
            runtime: self.runtime.clone(),
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

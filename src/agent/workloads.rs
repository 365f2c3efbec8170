//! What runs containers on a device: opened before anything of the fleet is, so that a device which
//! can not run them says so at once, and handed to the device's loop.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::clock::Clock;
use super::local::Local;
use super::reports::Reports;
use super::tasks::Tasks;
use super::user_ids::Ranges;
use super::{AgentError, device, file, hardware, keeper, plug, policy, pressure, shelter, steer};
use crate::config::Config;
use crate::consensus::Engine;
use crate::images::ImageStore;
use crate::network::sandbox::{Sandboxes, SandboxesConfig};
use crate::reconciler;
use crate::runtime::{Shims, ShimsConfig};

/// What a device needs to run containers.
pub(super) struct Workloads {
    pub(super) runtime: Shims,
    sandboxes: Sandboxes,
    pub(super) images: Arc<ImageStore>,
    pub(super) local: Arc<watch::Sender<Local>>,
}

impl Workloads {
    pub(super) async fn open(config: &Config) -> Result<Self, AgentError> {
        let runtime = Shims::new(shims(config)?)?;
        runtime.sweep().await?;
        let sandboxes = Sandboxes::open(SandboxesConfig { run_dir: config.run_dir.clone() })?;
        let images = Arc::new(ImageStore::open(&config.data_dir.join("images"))?);
        Ok(Self { runtime, sandboxes, images, local: Arc::new(watch::channel(Local::default()).0) })
    }

    /// Starts to look after this device.
    pub(super) fn spawn(
        &self,
        config: &Arc<Config>,
        engine: &Engine,
        (clock, reports): (&Arc<Clock>, &Arc<Reports>),
        name: &str,
        tasks: &Tasks,
    ) {
        let hardware = hardware::Hardware::read(&config.data_dir);
        let ip = keeper::addresses(config).first().map(|address| address.ip().to_string()).unwrap_or_default();
        let node = reconciler::NodeContext { name: name.to_owned(), ip, memory: hardware.memory };
        let device = device::Device {
            engine: engine.clone(),
            runtime: Arc::new(self.runtime.clone()),
            sandboxes: self.sandboxes.clone(),
            unsheltered: shelter::Unsheltered::default(),
            images: self.images.clone(),
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
        tasks.spawn("look after the device", device.run());
        tasks.spawn("follow the node", steer::follow_node(engine.clone(), name.to_owned()));
        if !config.devices.is_empty() {
            tasks.spawn("follow what is plugged in", plug::follow(config.devices.clone(), self.local.clone()));
        }
        let watch = pressure::Watch {
            engine: engine.clone(),
            runtime: self.runtime.clone(),
            config: config.clone(),
            clock: clock.clone(),
            node: name.to_owned(),
            local: self.local.clone(),
        };
        tasks.spawn("watch memory and disk", watch.run());
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

//! What runs containers on a device: opened before anything of the fleet is, so that a device which
//! can not run them says so at once, and handed to the device's loop.

use std::sync::{Arc, Mutex};

use super::clock::Clock;
use super::keyring::Keyring;
use super::reports::Reports;
use super::secrets::Secrets;
use super::tasks::Tasks;
use super::{AgentError, device, file, hardware, keeper, provisions, shelter, steer};
use crate::config::Config;
use crate::images::ImageStore;
use crate::network::sandbox::{Sandboxes, SandboxesConfig};
use crate::reconciler;
use crate::runtime::{Shims, ShimsConfig};
use crate::volumes::Volumes;

/// What a device needs to run containers.
pub(super) struct Workloads {
    pub(super) runtime: Shims,
    sandboxes: Sandboxes,
    pub(super) images: Arc<ImageStore>,
    volumes: Arc<Volumes>,
}

impl Workloads {
    pub(super) async fn open(config: &Config) -> Result<Self, AgentError> {
        let runtime = Shims::new(shims(config)?)?;
        runtime.sweep().await?;
        let sandboxes = Sandboxes::open(SandboxesConfig { run_dir: config.run_dir.clone() })?;
        let images = Arc::new(ImageStore::open(&config.data_dir.join("images"))?);
        let volumes = Volumes::open(provisions::places(config)).map_err(file("open the folders of volumes"))?;
        Ok(Self { runtime, sandboxes, images, volumes: Arc::new(volumes) })
    }

    /// Starts to look after this device.
    pub(super) fn spawn(
        &self,
        config: &Arc<Config>,
        keyring: Keyring,
        (clock, reports): (&Arc<Clock>, &Arc<Reports>),
        name: &str,
        tasks: &Tasks,
    ) -> Result<(), AgentError> {
        let engine = keyring.engine.clone();
        let secrets = Secrets::open(config.data_dir.join("secrets"), keyring, tasks.clone())
            .map_err(file("open the secrets of this device"))?;
        let hardware = hardware::Hardware::read(&config.data_dir);
        let ip = keeper::addresses(config).first().map(|address| address.ip().to_string()).unwrap_or_default();
        let node = reconciler::NodeContext { name: name.to_owned(), ip, memory: hardware.memory };
        let device = device::Device {
            engine: engine.clone(),
            runtime: Arc::new(self.runtime.clone()),
            sandboxes: self.sandboxes.clone(),
            unsheltered: shelter::Unsheltered::default(),
            images: self.images.clone(),
            volumes: self.volumes.clone(),
            secrets,
            volume_failures: Mutex::default(),
            reports: reports.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            node,
            settings: reconciler::Settings { pids_limit: config.pids_limit, ..reconciler::Settings::default() },
        };
        tasks.spawn("look after the device", device.run());
        tasks.spawn("follow the node", steer::follow_node(engine, name.to_owned()));
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

//! The runtime that the agent uses: it orders shims, watches them, and reads their records. All
//! truth is on disk; this holds only configuration and the watches.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::cgroup::Hierarchies;
use super::folder::{Folder, LogLimits, Order, Standing, check_id, is_container_id, make_private};
use super::follow::follow;
use super::pidfd;
use super::seal::SealedExe;
use super::{Attached, Captured, ExecSession, ExecSpec, Runtime, RuntimeError, Usage};
use super::{attach, dial, exec, holders, last_words, settle, signal, usage};
use crate::kill_point;
use crate::reconciler::container::{
    ContainerRef, ContainerSpec, ContainerState, Namespace, ObservedContainer, StopSignal, log_path,
};

/// Longest report that a shim may send about its start, in bytes.
const REPORT_LIMIT: u64 = 64 << 10;

/// Where containers live on this device.
#[derive(Clone, Debug)]
pub struct ShimsConfig {
    /// State of containers: a folder that a reboot empties.
    pub run_dir: PathBuf,
    /// Writable layers of containers, on disk.
    pub scratch_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// Cgroup under which each container gets its own, such as `/kith`.
    pub cgroup: String,
    /// Bytes of one log file before it is rotated.
    pub log_max_bytes: u64,
    /// Log files kept for a container, the current one included.
    pub log_max_files: u32,
    /// Bytes of memory that all containers together may have; `None` sets no limit.
    pub memory_max: Option<u64>,
    /// The `kith` binary.
    pub exe: PathBuf,
}

/// Containers in shim processes.
#[derive(Clone, Debug)]
pub struct Shims(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    config: ShimsConfig,
    exe: SealedExe,
    hierarchies: Hierarchies,
    changed: watch::Sender<u64>,
    /// Ids of containers that a task watches.
    watched: Mutex<BTreeSet<String>>,
}

impl Shims {
    /// Opens the runtime and adopts every container of an earlier agent. Needs a tokio runtime.
    pub fn new(config: ShimsConfig) -> Result<Self, RuntimeError> {
        let containers = config.run_dir.join("containers");
        for folder in [&containers, &config.scratch_dir] {
            make_private(folder).map_err(|error| setup(format!("create {}", folder.display()), &error))?;
        }
        let hierarchies = Hierarchies::discover().map_err(|error| setup("look for cgroups".into(), &error))?;
        settle::forget_last_boot(&config.run_dir, &config.cgroup, &hierarchies).map_err(|error| {
            setup(format!("forget the containers of an earlier boot in {}", config.run_dir.display()), &error)
        })?;
        if let Some(bytes) = config.memory_max {
            let limit = hierarchies.limit_memory(&config.cgroup, bytes);
            limit.map_err(|error| setup(format!("limit the memory of cgroup {}", config.cgroup), &error))?;
        }
        let exe = SealedExe::open(&config.exe)
            .map_err(|error| setup(format!("seal {} (root is needed)", config.exe.display()), &error))?;
        let (changed, _) = watch::channel(0);
        let shims = Self(Arc::new(Inner { config, exe, hierarchies, changed, watched: Mutex::default() }));
        shims.listen().map_err(|error| setup("listen to shims".into(), &error))?;
        for folder in shims.folders().map_err(|error| setup(format!("list {}", containers.display()), &error))? {
            shims.watch(folder, None);
        }
        Ok(shims)
    }

    /// Removes what nobody owns any more: half-made folders, writable layers and cgroups without a
    /// container. Called once, before the first start.
    pub async fn sweep(&self) -> Result<(), RuntimeError> {
        let inner = Arc::clone(&self.0);
        let swept = tokio::task::spawn_blocking(move || inner.sweep()).await;
        swept.map_err(io::Error::other).flatten().map_err(|error| setup("sweep leftovers".into(), &error))
    }

    pub(super) fn folders(&self) -> io::Result<Vec<Folder>> {
        self.0.folders()
    }

    pub(super) fn hierarchies(&self) -> &Hierarchies {
        &self.0.hierarchies
    }

    /// Counts changes that shims report through a pipe that anyone may write to.
    fn listen(&self) -> io::Result<()> {
        let path = self.0.wake();
        match nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Open for both, or it would end each time that the last shim closes it.
        let mut receiver = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut bytes = [0; 64];
            while receiver.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                let Some(inner) = inner.upgrade() else { return };
                inner.moved();
            }
        });
        Ok(())
    }

    /// Waits for a shim to end, reaps it when it is ours, and settles what it left. One watch a container.
    fn watch(&self, folder: Folder, child: Option<Child>) {
        if !self.0.watched().insert(folder.id()) {
            // The watch that runs finds the new shim by its pid; as its parent, this one still has to reap it.
            if let Some(child) = child {
                tokio::spawn(pidfd::reap(child));
            }
            return;
        }
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let id = folder.id();
            follow(&weak, folder, child).await;
            if let Some(inner) = weak.upgrade() {
                inner.watched().remove(&id);
            }
        });
    }

    async fn start_one(&self, mut spec: ContainerSpec, layers: Vec<PathBuf>) -> Result<(), RuntimeError> {
        let id = spec.reference.id();
        let failed = |step, error: &dyn std::fmt::Display| RuntimeError::Failed {
            step,
            id: id.clone(),
            reason: error.to_string(),
        };
        check_id(&id).map_err(|reason| failed("name", &reason))?;
        let folder = self.0.folder(&id);
        if let Some(pod) = holders::wanted(&spec, &self.0.holders()) {
            let inner = Arc::clone(&self.0);
            let held = tokio::task::spawn_blocking(move || holders::ensure(&pod, &inner.config.cgroup, &inner.exe));
            let held = held.await.map_err(|error| failed("share processes", &error))?;
            spec.namespaces.pid = Namespace::At(held.map_err(|reason| failed("share processes", &reason))?);
        }
        let resolv_conf = settle::resolv_conf(&spec, &self.0.config.run_dir);
        let resolv_conf = resolv_conf.map_err(|error| failed("write resolv.conf", &error))?;
        let config = &self.0.config;
        let scratch = config.scratch_dir.join(&id);
        last_words::prepare(&mut spec, &scratch).map_err(|error| failed("make its termination message", &error))?;
        let order = Order {
            cgroup: self.0.cgroup(&id),
            scratch,
            resolv_conf,
            log: LogLimits {
                path: log_path(&config.log_dir, &spec.reference),
                max_bytes: config.log_max_bytes,
                max_files: config.log_max_files,
            },
            wake: self.0.wake(),
            spec,
            layers,
        };
        let lock = folder.create(&order).map_err(|error| failed("create the folder", &error))?;
        kill_point::reached("start:ordered");
        let (reader, writer) = io::pipe().map_err(|error| failed("open a pipe", &error))?;
        let report = writer.try_clone().map_err(|error| failed("open a pipe", &error))?;
        let args = ["create".into(), folder.path().as_os_str().to_owned(), order.cgroup.clone().into()];
        let child = settle::spawn(&self.0.exe, args.iter(), lock, Some((OwnedFd::from(writer), OwnedFd::from(report))));
        let child = child.map_err(|error| failed("start the shim", &error))?;
        kill_point::reached("start:spawned");
        self.watch(folder, Some(child));
        let receiver =
            pipe::Receiver::from_owned_fd(reader.into()).map_err(|error| failed("read the shim's report", &error))?;
        let mut report = String::new();
        receiver
            .take(REPORT_LIMIT)
            .read_to_string(&mut report)
            .await
            .map_err(|error| failed("read the shim's report", &error))?;
        match report.trim() {
            "ok" => Ok(()),
            "" => Err(failed("start", &"its shim was killed")),
            reason => Err(failed("start", &reason)),
        }
    }

    async fn list_all(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        let folders = self.folders().map_err(|error| setup("list containers".into(), &error))?;
        let mut observed = Vec::with_capacity(folders.len());
        for folder in folders {
            match folder.standing() {
                Ok(Standing::Over(container)) => observed.push(container),
                Ok(Standing::Attended(container)) => {
                    self.watch(folder, None);
                    observed.push(container);
                }
                Ok(Standing::Abandoned(known)) => {
                    let (standing, waiter) = self.0.settle_off_thread(&folder).await;
                    if waiter.is_some() {
                        self.watch(folder, waiter);
                    }
                    // Never left out: what is not listed would be started again.
                    observed.push(match standing {
                        Some(Standing::Attended(now) | Standing::Over(now) | Standing::Abandoned(now)) => now,
                        None => known,
                    });
                }
                // Removed since it was listed.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(setup(format!("read {}", folder.path().display()), &error)),
            }
        }
        Ok(observed)
    }

    async fn stop_one(&self, reference: &ContainerRef, signal: StopSignal) -> Result<(), RuntimeError> {
        let id = reference.id();
        let folder = self.0.folder(&id);
        let failed = |error: &dyn std::fmt::Display| RuntimeError::Failed {
            step: "stop",
            id: id.clone(),
            reason: error.to_string(),
        };
        if check_id(&id).is_err() || !folder.path().exists() {
            return Err(RuntimeError::Unknown(id));
        }
        let order = folder.order().map_err(|error| failed(&error))?;
        let running = folder.progress().map_err(|error| failed(&error))?.and_then(|progress| progress.running);
        if folder.exit().map_err(|error| failed(&error))?.is_some() {
            return Ok(());
        }
        match (signal, running) {
            (StopSignal::Ask, Some((init, _))) => {
                signal::ask(init, &order.spec.stop_signal).map_err(|error| failed(&error))
            }
            // Not started yet: there is nobody to ask.
            (StopSignal::Ask, None) => Ok(()),
            (StopSignal::Kill, running) => {
                let inner = Arc::clone(&self.0);
                let killed = tokio::task::spawn_blocking(move || {
                    if running.is_none() {
                        super::orphan::kill_creators(folder.path())?;
                    }
                    inner.hierarchies.kill(&order.cgroup).map_err(|error| error.to_string())
                });
                killed.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
            }
        }
    }

    /// The folder and the cgroup of a container that is known here.
    fn known(&self, reference: &ContainerRef) -> Result<(Folder, String), RuntimeError> {
        let id = reference.id();
        let folder = self.0.folder(&id);
        if check_id(&id).is_err() || !folder.path().exists() {
            return Err(RuntimeError::Unknown(id));
        }
        let cgroup = self.0.cgroup(&id);
        Ok((folder, cgroup))
    }

    async fn remove_one(&self, reference: &ContainerRef) -> Result<(), RuntimeError> {
        let id = reference.id();
        let failed = |error: &dyn std::fmt::Display| RuntimeError::Failed {
            step: "remove",
            id: id.clone(),
            reason: error.to_string(),
        };
        let folder = self.0.folder(&id);
        if check_id(&id).is_err() || !folder.path().exists() {
            return Ok(());
        }
        if !matches!(folder.standing().map_err(|error| failed(&error))?, Standing::Over(_)) {
            return Err(failed(&"it still runs; stop it first"));
        }
        let inner = Arc::clone(&self.0);
        let (own, pod) = (id.clone(), reference.pod.uid.clone());
        let removed = tokio::task::spawn_blocking(move || {
            settle::remove(&folder, &inner.config.scratch_dir.join(&own), &inner.cgroup(&own), &inner.hierarchies)?;
            inner.sweep_holders(Some(&pod))
        });
        removed.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}

impl Inner {
    fn watched(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) -> PathBuf {
        self.config.run_dir.join("containers.wake")
    }

    fn folder(&self, id: &str) -> Folder {
        Folder::new(self.config.run_dir.join("containers").join(id))
    }

    fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.config.cgroup.trim_end_matches('/'))
    }

    fn moved(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn folders(&self) -> io::Result<Vec<Folder>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(self.config.run_dir.join("containers"))? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                folders.push(Folder::new(entry.path()));
            }
        }
        folders.sort_by(|a, b| a.path().cmp(b.path()));
        Ok(folders)
    }

    pub(super) async fn settle_off_thread(self: &Arc<Self>, folder: &Folder) -> (Option<Standing>, Option<Child>) {
        let (inner, folder) = (Arc::clone(self), folder.clone());
        let settled = tokio::task::spawn_blocking(move || {
            let waiter = settle::settle(&folder, &inner.exe, &inner.hierarchies).unwrap_or_else(|reason| {
                tracing::error!(container = folder.id(), reason, "a container without a shim could not be settled");
                None
            });
            // Others may have looked while it was neither here nor there.
            inner.moved();
            (folder.standing().ok(), waiter)
        });
        settled.await.unwrap_or_default()
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.config.run_dir.join("containers"))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".new-") || name.as_encoded_bytes().starts_with(b".old-") {
                settle::remove_dir(&entry.path())?;
            }
        }
        let owned = |id: &str| self.folder(id).path().exists();
        for entry in fs::read_dir(&self.config.scratch_dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|id| !owned(id)) {
                settle::remove_dir(&entry.path())?;
            }
        }
        for id in self.hierarchies.children(&self.config.cgroup) {
            if is_container_id(&id) && !owned(&id) {
                self.hierarchies.remove(&self.cgroup(&id))?;
            }
        }
        self.sweep_holders(None)
    }

    fn holders(&self) -> PathBuf {
        self.config.run_dir.join("holders")
    }

    /// Ends what holds the processes of pods without containers: of one pod, or of all while nothing starts.
    fn sweep_holders(&self, pod: Option<&str>) -> io::Result<()> {
        let ids: Vec<String> = self.folders()?.iter().map(Folder::id).collect();
        holders::sweep(&self.holders(), |uid| pod.is_some_and(|pod| pod != uid) || holders::is_of(uid, &ids))
    }
}

impl Runtime for Shims {
    fn start(&self, spec: ContainerSpec, layers: Vec<PathBuf>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.start_one(spec, layers).boxed()
    }

    fn stop<'a>(&'a self, reference: &'a ContainerRef, signal: StopSignal) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.stop_one(reference, signal).boxed()
    }

    fn remove<'a>(&'a self, reference: &'a ContainerRef) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.remove_one(reference).boxed()
    }

    fn exec<'a>(
        &'a self,
        reference: &'a ContainerRef,
        spec: ExecSpec,
    ) -> BoxFuture<'a, Result<ExecSession, RuntimeError>> {
        async move {
            let (folder, cgroup) = self.known(reference)?;
            let begun = exec::begin(&self.0.exe, &folder, &cgroup, spec).await;
            begun.map_err(|reason| RuntimeError::Failed { step: "run a program", id: reference.id(), reason })
        }
        .boxed()
    }

    fn exec_capture<'a>(
        &'a self,
        reference: &'a ContainerRef,
        args: Vec<String>,
        timeout: Duration,
        limit: usize,
    ) -> BoxFuture<'a, Result<Captured, RuntimeError>> {
        async move {
            let (folder, cgroup) = self.known(reference)?;
            let captured = exec::capture(&self.0.exe, &folder, &cgroup, args, timeout, limit).await;
            captured.map_err(|reason| RuntimeError::Failed { step: "run a program", id: reference.id(), reason })
        }
        .boxed()
    }

    fn attach<'a>(
        &'a self,
        reference: &'a ContainerRef,
        writes: bool,
    ) -> BoxFuture<'a, Result<Option<Attached>, RuntimeError>> {
        async move {
            let (folder, _) = self.known(reference)?;
            let attached = attach::begin(&folder, writes).await;
            attached.map_err(|reason| RuntimeError::Failed { step: "attach to a program", id: reference.id(), reason })
        }
        .boxed()
    }

    fn connect<'a>(
        &'a self,
        reference: &'a ContainerRef,
        port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, RuntimeError>> {
        async move {
            let (folder, _) = self.known(reference)?;
            let connected = dial::connect(&folder, port).await;
            connected.map_err(|reason| RuntimeError::Failed { step: "reach a port", id: reference.id(), reason })
        }
        .boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, RuntimeError>> {
        async move {
            let listed = self.list_all().await?;
            let inner = Arc::clone(&self.0);
            let read = tokio::task::spawn_blocking(move || {
                let running = listed.into_iter().filter(|found| matches!(found.state, ContainerState::Running { .. }));
                let containers = running.filter_map(|found| {
                    let used = usage::of_cgroup(&inner.hierarchies, &inner.cgroup(&found.reference.id()))?;
                    Some((found.reference, used))
                });
                Usage { containers: containers.collect(), device: usage::of_device() }
            });
            read.await.map_err(|error| setup("read what containers use".into(), &error))
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ObservedContainer>, RuntimeError>> {
        self.list_all().boxed()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

fn setup(step: String, error: &dyn std::fmt::Display) -> RuntimeError {
    RuntimeError::Setup { step, reason: error.to_string() }
}

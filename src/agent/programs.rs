//! This device's part in exchanging its program: it takes one in when root asks or when its fleet has
//! come to it, shows that a new one is well, and hands programs to other devices. What is judged, and
//! what a start goes on as, `upgrade` decides.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, mpsc};

use super::End;
use super::clock::Clock;
use super::tasks::Tasks;
use crate::config::Config;
use crate::consensus::{Engine, Freshness, Replica};
use crate::kill_point;
use crate::metrics::counted;
use crate::resource::chain;
use crate::store::{Key, codec};
use crate::upgrade::incoming::{self, Signed};
use crate::upgrade::launch;
use crate::upgrade::record::{Outcome, Record, Trial};
use crate::upgrade::release;
use crate::upgrade::rollout::{KIND, NAME, Phase, Program, Rollout};
use crate::upgrade::{UpgradeError, trial};

/// Bytes of a program that travel at once.
const PIECE: u64 = 256 << 10;
/// How long another device may take to send them.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// Pause after nobody could give the program.
const PAUSE: Duration = Duration::from_secs(3);
/// Rounds over all who may have it, until this device says that it can not be had.
const ROUNDS: u32 = 20;
/// How long a new program has to be well without a break.
const STEADY: Duration = Duration::from_secs(5);
/// Pause between looks at whether it is.
const LOOK: Duration = Duration::from_millis(250);

/// A question about the program of a device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// What runs there; the answer is a [`State`].
    State,
    /// A part of a program.
    Piece {
        /// Which program.
        digest: String,
        /// From which byte on.
        offset: u64,
    },
}

/// An answer. An older release answers `Err` to what it does not understand.
pub(crate) type Answer = Result<Reply, String>;

/// What was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A [`State`], as JSON: later releases say more.
    State(String),
    /// Some bytes; none at the end.
    Piece(Vec<u8>),
}

/// What runs on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) version: String,
    /// Digest of the program that runs.
    pub(crate) digest: String,
    pub(crate) arch: String,
    pub(crate) on_trial: bool,
    /// What came of the last trial.
    pub(crate) last: Option<Outcome>,
    /// The ticket of a rollout that did not come to a trial here, and why.
    pub(crate) refused: Option<(String, String)>,
    /// On the leader: what the rollout waits for.
    pub(crate) waits: String,
}

/// The programs of this device.
#[derive(Clone)]
pub(crate) struct Programs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    engine: Engine,
    config: Arc<Config>,
    clock: Arc<Clock>,
    name: String,
    ends: mpsc::Sender<End>,
    own: OnceCell<String>,
    refused: Mutex<Option<(String, String)>>,
    waits: Arc<Mutex<String>>,
}

impl Programs {
    pub(crate) fn new(
        engine: &Engine,
        config: &Arc<Config>,
        clock: &Arc<Clock>,
        name: &str,
        ends: &mpsc::Sender<End>,
    ) -> Self {
        Self(Arc::new(Inner {
            dir: config.upgrade_dir(),
            engine: engine.clone(),
            config: config.clone(),
            clock: clock.clone(),
            name: name.into(),
            ends: ends.clone(),
            own: OnceCell::new(),
            refused: Mutex::default(),
            waits: Arc::default(),
        }))
    }

    /// Where the leader says what a rollout waits for.
    pub(crate) fn waits(&self) -> Arc<Mutex<String>> {
        self.0.waits.clone()
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.0.dir
    }

    /// Starts the tasks. `works` says whether this device looks after pods.
    pub(crate) fn spawn(&self, tasks: &Tasks, works: bool) {
        tasks.spawn("follow the rollout", self.clone().follow());
        if let Some(on_trial) = launch::on_trial(&self.0.dir) {
            tasks.spawn("prove to be well", self.clone().prove(on_trial, works));
        }
    }

    /// The digest of the program that runs.
    pub(crate) async fn own_digest(&self) -> String {
        let find = || async {
            if let Some(slot) = launch::own_slot(&self.0.dir) {
                return slot;
            }
            let read = tokio::task::spawn_blocking(|| incoming::digest(std::path::Path::new("/proc/self/exe")));
            read.await.ok().and_then(Result::ok).unwrap_or_default()
        };
        self.0.own.get_or_init(find).await.clone()
    }

    /// What runs here.
    pub(crate) async fn state(&self) -> State {
        let record = Record::load(&self.0.dir).unwrap_or_default();
        State {
            version: release::version().into(),
            digest: self.own_digest().await,
            arch: release::own().arch.clone(),
            on_trial: launch::on_trial(&self.0.dir).is_some(),
            last: record.last,
            refused: self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            waits: self.0.waits.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Answers another device.
    pub(crate) async fn answer(&self, ask: Ask) -> Vec<u8> {
        let answer: Answer = match ask {
            Ask::State => serde_json::to_string(&self.state().await).map(Reply::State).map_err(|e| e.to_string()),
            Ask::Piece { digest, offset } => {
                let dir = self.0.dir.clone();
                let read = tokio::task::spawn_blocking(move || piece(&dir, &digest, offset));
                read.await.unwrap_or_else(|error| Err(error.to_string())).map(Reply::Piece)
            }
        };
        codec::encode(&answer).unwrap_or_default()
    }

    /// Takes a program in that lies ready, and ends the agent for it to take over. What is refused does
    /// not stay.
    pub(crate) async fn exchange(
        &self,
        digest: &str,
        keys: Option<&[String]>,
        downgrade: bool,
        ticket: &str,
    ) -> Result<String, UpgradeError> {
        let exchanged = self.try_exchange(digest, keys, downgrade, ticket).await;
        if exchanged.is_err() {
            self.sweep();
        }
        exchanged
    }

    async fn try_exchange(
        &self,
        digest: &str,
        keys: Option<&[String]>,
        downgrade: bool,
        ticket: &str,
    ) -> Result<String, UpgradeError> {
        let dir = self.0.dir.clone();
        let (wanted, keys) = (digest.to_owned(), keys.map(<[String]>::to_vec));
        let judged = tokio::task::spawn_blocking(move || {
            let signed = keys.as_deref().map_or(Signed::Nobody, Signed::By);
            incoming::judge(&dir, &wanted, signed, downgrade)
        });
        let judged = judged.await.map_err(|error| crate::upgrade::io("judge the program")(error.into()))?;
        let release = judged?;
        let slot = incoming::take_in(&self.0.dir, digest, &release).await?;
        kill_point::reached("upgrade:staged");
        let quorum = self.0.engine.barrier().await == Freshness::Current;
        let at = self.0.clock.now().to_string();
        incoming::begin(&self.0.dir, slot, Trial { quorum, rollout: ticket.into(), at, ..Trial::default() })?;
        kill_point::reached("upgrade:recorded");
        tracing::warn!(from = release::version(), to = %release.version, "another release takes over");
        // The agent ends already when nobody takes this.
        let _ = self.0.ends.send(End::Exchanged).await;
        Ok(release.version.to_string())
    }

    /// Shows that this program is well; then it stays.
    async fn prove(self, on_trial: Trial, works: bool) {
        let mut since: Option<Instant> = None;
        loop {
            match self.lacks(&on_trial, works).await {
                None if since.get_or_insert_with(Instant::now).elapsed() >= STEADY => break,
                None => {}
                Some(why) => {
                    trial::lacks(&why);
                    since = None;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        let dir = self.0.dir.clone();
        // A write to the disk, with the thread of the way back held off meanwhile.
        let stays = tokio::task::spawn_blocking(move || trial::well(&dir)).await;
        match stays.map_err(|error| error.to_string()).and_then(|stays| stays.map_err(|error| chain(&error))) {
            Ok(true) => {
                tracing::info!(version = release::version(), before = on_trial.from_version, "this release is well");
                self.sweep();
            }
            Ok(false) => {
                tracing::warn!("the record names another program by now");
                let _ = self.0.ends.send(End::Exchanged).await;
            }
            // The way back is taken in time.
            Err(error) => tracing::error!(error, "that this release is well can not be written down"),
        }
    }

    /// What this program lacks to be well.
    async fn lacks(&self, on_trial: &Trial, works: bool) -> Option<String> {
        if let Some(why) = self.0.engine.failure() {
            return Some(format!("its consensus has stopped: {why}"));
        }
        if works && counted::ROUNDS.count() == 0 {
            return Some("it has not looked after its pods yet".into());
        }
        if on_trial.quorum
            && let Freshness::Stale { why, .. } = self.0.engine.barrier().await
        {
            return Some(format!("it heard a quorum before and does not now: {why}"));
        }
        None
    }

    /// Removes programs that nobody needs any more.
    pub(crate) fn sweep(&self) {
        let kept = match self.rollout() {
            Some((rollout, _)) if !rollout.complete && !rollout.aborted => {
                rollout.programs.into_values().map(|program| program.digest).collect()
            }
            _ => Vec::new(),
        };
        if let Ok(record) = Record::load(&self.0.dir) {
            incoming::sweep(&self.0.dir, &record, &kept);
        }
    }

    /// The fleet's rollout and its revision, if there is one.
    pub(crate) fn rollout(&self) -> Option<(Rollout, u64)> {
        read_rollout(&self.0.engine)
    }

    /// Exchanges this device's program when the fleet has come to it. Being dropped at any await is
    /// safe: what was fetched lies on the disk, and a trial is written down whole.
    async fn follow(self) {
        let mut revisions = self.0.engine.revision();
        let mut seen = None;
        let mut tried = String::new();
        loop {
            let now = *revisions.borrow_and_update();
            let news = |seen| self.0.engine.events_since(seen, Some(KIND)).map_or(true, |events| !events.is_empty());
            if seen.is_none_or(news)
                && let Some((rollout, ticket)) = self.called()
                && tried != ticket
            {
                tried.clone_from(&ticket);
                if let Err(why) = self.go(&rollout, &ticket).await {
                    tracing::error!(version = rollout.version, why, "this device can not go over to another release");
                    *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((ticket, why));
                }
            }
            if seen.is_some_and(news) && self.rollout().is_some_and(|(rollout, _)| rollout.complete || rollout.aborted)
            {
                self.sweep();
            }
            seen = Some(now);
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    /// The rollout, when it has come to this device and nothing was tried yet.
    fn called(&self) -> Option<(Rollout, String)> {
        let (rollout, _) = self.rollout()?;
        let step = rollout.devices.get(&self.0.name).filter(|step| step.phase == Phase::Permitted)?;
        let ticket = rollout.ticket(step);
        let over = rollout.aborted || rollout.complete || !rollout.failed.is_empty();
        // This very step was taken before, and what ran before came back.
        let tried = Record::load(&self.0.dir).ok()?.last.is_some_and(|last| last.rollout == ticket);
        (!over && !tried).then_some((rollout, ticket))
    }

    async fn go(&self, rollout: &Rollout, ticket: &str) -> Result<(), String> {
        let arch = &release::own().arch;
        let program = rollout.programs.get(arch);
        let program = program.ok_or_else(|| format!("there is no program for {arch} among those that were given"))?;
        if self.own_digest().await == program.digest {
            return Ok(());
        }
        self.fetch(rollout, program, ticket).await?;
        let keys = Some(&self.0.config.upgrade.keys[..]);
        let gone = self.exchange(&program.digest, keys, rollout.downgrade, ticket).await;
        gone.map(drop).map_err(|error| chain(&error))
    }

    /// Brings the program here, from any device that has it.
    async fn fetch(&self, rollout: &Rollout, program: &Program, ticket: &str) -> Result<(), String> {
        let dir = &self.0.dir;
        incoming::make(dir).map_err(|error| chain(&error))?;
        let path = incoming::signature_place(dir, &program.digest);
        std::fs::write(&path, &program.signature).map_err(|error| format!("write {}: {error}", path.display()))?;
        let mut last = String::new();
        for _ in 0..ROUNDS {
            if incoming::find(dir, &program.digest).is_some() {
                return Ok(());
            }
            for source in self.sources(rollout) {
                match self.fetch_from(source, program).await {
                    Ok(()) => return Ok(()),
                    Err(why) => last = why,
                }
            }
            tokio::time::sleep(PAUSE).await;
            if self.called().is_none_or(|(_, now)| now != ticket) {
                return Err("the rollout was ended meanwhile".into());
            }
        }
        Err(format!("no device could give it the program: {last}"))
    }

    /// Members that have the program: the one that it was given to, and those that run it.
    fn sources(&self, rollout: &Rollout) -> Vec<u64> {
        let has = |name: &String| {
            *name == rollout.holder || rollout.devices.get(name).is_some_and(|step| step.phase == Phase::Done)
        };
        let members = self.0.engine.members().borrow().clone();
        let having = members.iter().filter(|(_, member)| member.name != self.0.name && has(&member.name));
        let mut sources: Vec<u64> = having.map(|(id, _)| *id).collect();
        // Not everybody from the same one.
        let own = self.0.engine.member_id();
        sources.sort_by_key(|id| id.wrapping_mul(own.wrapping_add(0x9e37_79b9)) % 1009);
        sources
    }

    async fn fetch_from(&self, source: u64, program: &Program) -> Result<(), String> {
        use std::io::Write as _;
        let part = self.0.dir.join("incoming").join(format!("{}.part", program.digest));
        let failed = |error: std::io::Error| format!("write {}: {error}", part.display());
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&part).map_err(failed)?;
        let mut offset = file.metadata().map_err(failed)?.len();
        let begun = Instant::now();
        let mut brought = 0;
        while offset < program.size {
            let ask = super::peers::PeerAsk::Program(Ask::Piece { digest: program.digest.clone(), offset });
            let request = codec::encode(&ask).map_err(|error| error.to_string())?;
            let answer = self.0.engine.ask(source, request, PIECE_WITHIN).await.map_err(|error| error.to_string())?;
            let bytes = match codec::decode::<Answer>(&answer).map_err(|error| error.to_string())?? {
                Reply::Piece(bytes) if !bytes.is_empty() => bytes,
                _ => return Err("it ends too early".into()),
            };
            offset += bytes.len() as u64;
            brought += bytes.len() as u64;
            if offset > program.size {
                let _ = std::fs::remove_file(&part);
                return Err("it is longer than it should be".into());
            }
            file.write_all(&bytes).map_err(failed)?;
            pace(begun, brought, self.0.config.upgrade.bytes_per_second).await;
        }
        file.sync_all().map_err(failed)?;
        let (checked, digest) = (part.clone(), program.digest.clone());
        let found = tokio::task::spawn_blocking(move || incoming::digest(&checked)).await;
        if found.map_err(|error| error.to_string())?.map_err(|error| chain(&error))? != digest {
            let _ = std::fs::remove_file(&part);
            return Err("it changed on its way".into());
        }
        std::fs::rename(&part, incoming::place(&self.0.dir, &digest)).map_err(failed)
    }
}

/// Waits until so many bytes are no more than so many a second.
async fn pace(begun: Instant, bytes: u64, a_second: u64) {
    if let Some(millis) = (bytes * 1000).checked_div(a_second) {
        tokio::time::sleep(Duration::from_millis(millis).saturating_sub(begun.elapsed())).await;
    }
}

/// The fleet's rollout and its revision, if there is one that can be read.
pub(crate) fn read_rollout(engine: &Engine) -> Option<(Rollout, u64)> {
    #[derive(Deserialize)]
    struct Object {
        spec: Rollout,
    }
    let document = engine.get(&Key::new(KIND, "", NAME)).ok()??;
    let object: Object = serde_json::from_slice(&document.body).ok()?;
    Some((object.spec, document.modified))
}

fn piece(dir: &std::path::Path, digest: &str, offset: u64) -> Result<Vec<u8>, String> {
    use std::io::{Read as _, Seek as _};
    let path = incoming::find(dir, digest).ok_or("this device does not have it")?;
    let read = || {
        let mut file = std::fs::File::open(&path)?;
        file.seek(std::io::SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(PIECE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| format!("read {}: {error}", path.display()))
}

//! What root and administrators ask about releases: exchange the program here, begin a rollout of the
//! fleet and steer it, say how far it is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::control::{Control, Refusal};
use super::programs::{Programs, read_rollout};
use super::rollouts;
use super::status::members_seen;
use crate::api::fleet::{
    Problem, RolloutAsk, RolloutDevice, RolloutSteer, RolloutView, UpgradeAsk, UpgradeBegun, UpgradeOutcome,
    UpgradeView,
};
use crate::consensus::Replica;
use crate::resource::{chain, kind, meta};
use crate::store::{Key, Precondition};
use crate::upgrade::incoming::{self, Signed};
use crate::upgrade::release::Release;
use crate::upgrade::rollout::{KIND, NAME, Phase, Program, Rollout, lacks};
use crate::upgrade::{UpgradeError, launch, release, signature};

/// The most devices of a first wave.
const CANARY_LIMIT: usize = 1000;
/// The longest spans of a rollout, in seconds: a day.
const SECONDS_LIMIT: u64 = 24 * 3600;

fn refusal(error: &UpgradeError) -> Refusal {
    let status = match error {
        UpgradeError::Io { .. } | UpgradeError::Record { .. } => 500,
        UpgradeError::Unsigned { .. } => 403,
        UpgradeError::Unfit { .. } | UpgradeError::Order { .. } => 422,
    };
    Refusal { status, message: chain(error) }
}

impl Control {
    /// What runs here, and how far the fleet is.
    pub(crate) async fn upgrade_view(&self) -> Result<UpgradeView, Refusal> {
        let state = self.programs.state().await;
        let outcome = |last: crate::upgrade::record::Outcome| UpgradeOutcome {
            version: last.version,
            digest: last.digest,
            well: last.well,
            why: last.why,
        };
        let rollout = match self.programs.rollout() {
            Some((rollout, _)) => Some(self.rollout_view(&rollout).await?),
            None => None,
        };
        Ok(UpgradeView {
            device: self.name.clone(),
            version: state.version,
            digest: state.digest,
            installed: launch::installed_version(),
            on_trial: state.on_trial,
            last: state.last.map(outcome),
            rollout,
        })
    }

    /// Exchanges the program of this device.
    pub(crate) async fn upgrade(&self, ask: &UpgradeAsk, user: &str) -> Result<UpgradeBegun, Refusal> {
        if let Some((rollout, _)) = self.programs.rollout()
            && rollout.goes_on()
        {
            let message = format!(
                "the fleet goes over to {} at this moment, and this device with it: kith upgrade --status shows how \
                 far it is, kith upgrade --abort ends it",
                rollout.version
            );
            return Err(Refusal { status: 409, message });
        }
        if ask.unsigned && user != "root" {
            let message = "only root on the device itself vouches for a program that nobody signed".into();
            return Err(Refusal { status: 403, message });
        }
        if ask.unsigned {
            tracing::warn!(user, digest = ask.digest, "a program that nobody signed takes over");
        }
        let keys = (!ask.unsigned).then_some(&self.config.upgrade.keys[..]);
        let begun = self.programs.exchange(&ask.digest, keys, ask.downgrade, "").await;
        let version = begun.map_err(|error| refusal(&error))?;
        let within_seconds = self.config.upgrade.well_within_seconds;
        Ok(UpgradeBegun { version, before: release::version().into(), within_seconds })
    }

    /// Begins a rollout with programs that lie ready here.
    pub(crate) async fn begin_rollout(&self, ask: &RolloutAsk, user: &str) -> Result<RolloutView, Refusal> {
        let refuse = |status, message: String| Err(Refusal { status, message });
        let earlier = read_rollout(&self.engine);
        if let Some((rollout, _)) = &earlier
            && !rollout.complete
            && !rollout.aborted
        {
            let message = format!(
                "the fleet is on its way to {} already: kith upgrade --status shows how far it is, kith upgrade --abort \
                 ends it",
                rollout.version
            );
            return refuse(409, message);
        }
        let spans = [ask.steady_seconds, ask.within_seconds];
        let fine = (1..=CANARY_LIMIT).contains(&ask.canary) && (1..=100).contains(&ask.percent);
        if !fine || spans.iter().any(|seconds| *seconds > SECONDS_LIMIT) || ask.within_seconds == 0 {
            let message = format!(
                "a rollout has 1 to {CANARY_LIMIT} devices in its first wave, 1 to 100 percent in each later one, and \
                 spans of up to {SECONDS_LIMIT} seconds"
            );
            return refuse(422, message);
        }
        let (version, programs) = self.programs_of(ask).map_err(|error| {
            self.programs.sweep();
            refusal(&error)
        })?;
        if let Some(why) = lacks(&programs, &self.processors().await) {
            self.programs.sweep();
            return refuse(422, format!("{why}: a rollout takes one file for each processor of the fleet"));
        }
        let now = self.clock.now();
        let rollout = Rollout {
            id: crate::api::new_uid().chars().take(8).collect(),
            version,
            programs,
            holder: self.name.clone(),
            downgrade: ask.downgrade,
            canary: ask.canary,
            percent: ask.percent,
            steady_seconds: ask.steady_seconds,
            within_seconds: ask.within_seconds,
            by: user.into(),
            at: now,
            ..Rollout::default()
        };
        let stored = self.engine.get(&Key::new(KIND, "", NAME)).ok().flatten();
        let expect = stored.map_or(Precondition::Absent, |found| Precondition::AtRevision(found.modified));
        rollouts::write(&self.engine, &rollout, expect).await.map_err(|message| Refusal { status: 503, message })?;
        tracing::warn!(user, rollout = rollout.id, version = rollout.version, "the fleet goes over to another release");
        self.rollout_view(&rollout).await
    }

    /// The processor of each device, as its Node has it or, for one that is no Node, as it says itself.
    async fn processors(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let seen = self.engine.each_document(&kind::NODE.store_kind(), |document| {
            let Ok(node) = serde_json::from_slice::<Value>(&document.body) else { return };
            let arch = match meta::text_at(&node, "status.nodeInfo.architecture") {
                "" => return,
                "amd64" => "x86_64",
                "arm64" => "aarch64",
                other => other,
            };
            found.insert(document.key.name.clone(), arch.to_owned());
        });
        if let Err(error) = seen {
            tracing::warn!(%error, "nodes are not listed");
        }
        let members = self.engine.members().borrow().clone();
        for (id, member) in members.iter().filter(|(_, member)| member.witness) {
            if let Ok(state) = rollouts::state_of(&self.engine, *id).await {
                found.insert(member.name.clone(), state.arch);
            }
        }
        found
    }

    /// The programs of a rollout by processor, each signed and of one release.
    fn programs_of(&self, ask: &RolloutAsk) -> Result<(String, BTreeMap<String, Program>), UpgradeError> {
        let dir = self.programs.dir();
        let mut version = None;
        let mut programs = BTreeMap::new();
        for digest in &ask.digests {
            let unfit = |reason: String| UpgradeError::Unfit { file: digest.clone(), reason };
            let path = incoming::find(dir, digest).ok_or_else(|| unfit("it does not lie ready".into()))?;
            let text = std::fs::read_to_string(incoming::signature_place(dir, digest)).unwrap_or_default();
            signature::check(&path, &text, &self.config.upgrade.keys)?;
            let release = release::of_any(&path)?;
            if release.arch == release::own().arch {
                incoming::judge(dir, digest, Signed::By(&self.config.upgrade.keys), ask.downgrade)?;
            } else {
                // Whether it may follow is the same for every processor.
                let as_here = Release { arch: release::own().arch.clone(), ..release.clone() };
                release::follows(release::own(), &as_here, ask.downgrade)?;
            }
            let known = version.get_or_insert_with(|| release.version.clone());
            if *known != release.version {
                return Err(unfit(format!("it is {}, and another one is {known}", release.version)));
            }
            let size = std::fs::metadata(&path).map_err(crate::upgrade::io(format!("read {}", path.display())))?.len();
            let program = Program { digest: digest.clone(), size, signature: text };
            if programs.insert(release.arch.clone(), program).is_some() {
                return Err(unfit(format!("there are two programs for {}", release.arch)));
            }
        }
        let version = version.ok_or_else(|| UpgradeError::Unfit {
            file: "a rollout".into(),
            reason: "it needs at least one program".into(),
        })?;
        Ok((version.to_string(), programs))
    }

    /// Pauses, resumes or ends the rollout.
    pub(crate) async fn steer_rollout(&self, steer: RolloutSteer, user: &str) -> Result<RolloutView, Refusal> {
        let refuse = |status, message: &str| Err(Refusal { status, message: message.into() });
        self.fresh().await?;
        let Some((mut rollout, revision)) = read_rollout(&self.engine) else {
            return refuse(404, "there is no rollout: kith upgrade --fleet FILE begins one");
        };
        if rollout.complete || rollout.aborted {
            return refuse(409, "the latest rollout is over: kith upgrade --fleet FILE begins another one");
        }
        match steer {
            RolloutSteer::Pause => rollout.paused = true,
            RolloutSteer::Abort => rollout.aborted = true,
            RolloutSteer::Resume => {
                rollout.paused = false;
                rollout.failed.clear();
                rollout.devices.retain(|_, step| step.phase != Phase::Failed);
            }
        }
        let expect = Precondition::AtRevision(revision);
        rollouts::write(&self.engine, &rollout, expect).await.map_err(|message| Refusal { status: 503, message })?;
        tracing::warn!(user, ?steer, rollout = rollout.id, "the rollout is steered");
        self.rollout_view(&rollout).await
    }

    async fn rollout_view(&self, rollout: &Rollout) -> Result<RolloutView, Refusal> {
        let members =
            members_seen(&self.engine, self.settings.lost_after).map_err(|message| Refusal { status: 500, message })?;
        let devices = members.into_iter().map(|device| {
            let step = rollout.devices.get(&device.name);
            let phase = match step.map(|step| step.phase) {
                Some(Phase::Permitted) => "upgrading",
                Some(Phase::Done) => "done",
                Some(Phase::Failed) => "failed",
                None if !device.ready => "away",
                None => "waiting",
            };
            RolloutDevice {
                phase: phase.into(),
                at: step.map(|step| step.at.to_string()).unwrap_or_default(),
                why: step.map(|step| step.why.clone()).unwrap_or_default(),
                name: device.name,
            }
        });
        let waits = match self.engine.status().leader {
            Some(leader) if rollout.goes_on() => {
                rollouts::state_of(&self.engine, leader).await.map(|state| state.waits).unwrap_or_default()
            }
            _ => String::new(),
        };
        Ok(RolloutView {
            id: rollout.id.clone(),
            version: rollout.version.clone(),
            phase: phase(rollout).into(),
            why: rollout.failed.clone(),
            waits,
            by: rollout.by.clone(),
            at: rollout.at.to_string(),
            devices: devices.collect(),
        })
    }
}

fn phase(rollout: &Rollout) -> &'static str {
    match () {
        () if rollout.complete => "complete",
        () if rollout.aborted => "aborted",
        () if !rollout.failed.is_empty() => "failed",
        () if rollout.paused => "paused",
        () => "running",
    }
}

/// What `kith status` says about releases.
pub(crate) async fn problems(programs: &Programs, device: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    let state = programs.state().await;
    if let Some((rollout, _)) = programs.rollout() {
        let version = &rollout.version;
        let todo = "kith upgrade --status shows each device; kith upgrade --resume goes on and tries again, kith \
                    upgrade --abort ends it";
        match phase(&rollout) {
            "failed" => {
                let what = format!("the fleet's way to {version} has stopped: {}", rollout.failed);
                found.push(Problem { what, todo: todo.into() });
            }
            "paused" => {
                let what = format!("the fleet's way to {version} is paused");
                found.push(Problem { what, todo: todo.into() });
            }
            _ => {}
        }
    }
    // What belongs to a rollout is said there.
    if let Some(last) = state.last.filter(|last| !last.well && last.rollout.is_empty()) {
        let what = format!("{} did not stay on {device}, which runs {}: {}", last.version, state.version, last.why);
        let todo = "look at the agent's log; another kith upgrade that goes well ends this".into();
        found.push(Problem { what, todo });
    }
    found
}

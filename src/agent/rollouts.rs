//! The leader's part in a rollout: it asks the devices what they run, has `upgrade::rollout` decide who
//! goes next, and writes that down. Another leader goes on from what is written. While there is no
//! rollout it waits for one and does nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;

use super::clock::Clock;
use super::peers::PeerAsk;
use super::programs::{Answer, Ask, Reply, State, read_rollout};
use super::status::members_seen;
use crate::api::fleet::{DeviceRole, DeviceStatus};
use crate::consensus::{Engine, Replica};
use crate::resource::meta;
use crate::store::{Batch, Check, Key, Outcome, Precondition, Write, codec};
use crate::upgrade::rollout::{KIND, NAME, Phase, Rollout, Seen, decide};

/// Pause between looks while devices exchange their programs, and while some are away.
const TICK: Duration = Duration::from_secs(1);
const TICK_AWAY: Duration = Duration::from_secs(5);
/// How long a device may take to say what it runs, and how many are asked at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

/// The rollouts of a fleet.
#[derive(Clone)]
pub(crate) struct Rollouts {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<Clock>,
    pub(crate) lost_after: Duration,
    /// What the leader waits for.
    pub(crate) waits: Arc<Mutex<String>>,
}

/// What this leader remembers; another one asks anew.
#[derive(Default)]
struct Memory {
    states: BTreeMap<String, State>,
    /// Since when each device has run the new program and been ready.
    well: BTreeMap<String, Instant>,
    /// Since when each device has been on its way, by what names its permission.
    flying: BTreeMap<String, Instant>,
}

impl Rollouts {
    /// Leads rollouts for ever. Being dropped at any await loses nothing that is not asked again.
    pub(crate) async fn oversee(self) {
        let mut leadership = self.engine.leadership();
        loop {
            if leadership.wait_for(|now| now.is_leader).await.is_err() {
                return;
            }
            // Cancel-safe: all that counts is in the store.
            tokio::select! {
                () = self.lead() => {}
                changed = leadership.wait_for(|now| !now.is_leader) => if changed.is_err() { return },
            }
        }
    }

    async fn lead(&self) {
        let mut revisions = self.engine.revision();
        let mut memory = Memory::default();
        let mut seen = None;
        loop {
            seen = Some(*revisions.borrow_and_update()).or(seen);
            let rollout = read_rollout(&self.engine);
            let pause = match rollout {
                Some((rollout, revision)) if concerns(&rollout) => self.round(&mut memory, rollout, revision).await,
                _ => None,
            };
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            } else {
                memory = Memory::default();
                self.until_written(seen.unwrap_or_default(), &mut revisions).await;
            }
        }
    }

    /// Until the rollout's document changed.
    async fn until_written(&self, mut seen: u64, revisions: &mut tokio::sync::watch::Receiver<u64>) {
        loop {
            if self.engine.events_since(seen, Some(KIND)).map_or(true, |events| !events.is_empty()) {
                return;
            }
            seen = *revisions.borrow_and_update();
            if revisions.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn round(&self, memory: &mut Memory, mut rollout: Rollout, revision: u64) -> Option<Duration> {
        let devices = match members_seen(&self.engine, self.lost_after) {
            Ok(devices) => devices,
            Err(error) => {
                tracing::error!(error, "the devices of the fleet can not be listed");
                return Some(TICK_AWAY);
            }
        };
        self.ask(memory, &rollout, &devices).await;
        let fleet = self.see(memory, &rollout, &devices);
        let (changes, waits) = decide(&rollout, &fleet);
        self.say(&waits);
        if changes.is_empty() {
            let flying = rollout.in_flight().next().is_some();
            return rollout_pause(flying, rollout.goes_on());
        }
        let now = self.clock.now();
        for change in &changes {
            tracing::info!(rollout = rollout.id, version = rollout.version, ?change, "the rollout goes on");
            rollout.apply(change, now);
        }
        if let Err(why) = write(&self.engine, &rollout, Precondition::AtRevision(revision)).await {
            tracing::debug!(why, "the rollout is not written; it is decided anew");
        }
        Some(Duration::from_millis(100))
    }

    fn say(&self, waits: &str) {
        let mut said = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != waits {
            if !waits.is_empty() {
                tracing::info!("the rollout waits for {waits}");
            }
            waits.clone_into(&mut said);
        }
    }

    /// Asks those that matter what they run.
    async fn ask(&self, memory: &mut Memory, rollout: &Rollout, devices: &[DeviceStatus]) {
        let done = |name: &str| rollout.devices.get(name).is_some_and(|step| step.phase == Phase::Done);
        let permitted = |name: &str| rollout.devices.get(name).is_some_and(|step| step.phase == Phase::Permitted);
        // One that was away says anew what it runs.
        memory.states.retain(|name, _| devices.iter().any(|one| one.ready && one.name == *name));
        let wanted: Vec<(u64, String)> = devices
            .iter()
            .filter(|one| one.ready && !done(&one.name))
            .filter(|one| permitted(&one.name) || !memory.states.contains_key(&one.name))
            .map(|one| (one.member_id, one.name.clone()))
            .collect();
        let engine = &self.engine;
        let answers: Vec<_> = futures_util::stream::iter(wanted)
            .map(|(id, name)| async move { (name, state_of(engine, id).await) })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (name, state) in answers {
            match state {
                Ok(state) => drop(memory.states.insert(name, state)),
                Err(why) => {
                    tracing::debug!(device = name, why, "it does not say what it runs");
                    memory.states.remove(&name);
                }
            }
        }
    }

    fn see(&self, memory: &mut Memory, rollout: &Rollout, devices: &[DeviceStatus]) -> Vec<Seen> {
        let pods = pods_ready(&self.engine);
        let fleet = devices.iter().map(|device| {
            let state = memory.states.get(&device.name);
            let runs_new = state
                .map(|state| rollout.programs.get(&state.arch).is_some_and(|program| program.digest == state.digest));
            let on_trial = state.is_some_and(|state| state.on_trial);
            if runs_new == Some(true) && !on_trial && device.ready {
                memory.well.entry(device.name.clone()).or_insert_with(Instant::now);
            } else {
                memory.well.remove(&device.name);
            }
            let step = rollout.devices.get(&device.name).filter(|step| step.phase == Phase::Permitted);
            let ticket = step.map(|step| rollout.ticket(step));
            let since = ticket
                .iter()
                .map(|ticket| *memory.flying.entry(format!("{ticket}/{}", device.name)).or_insert_with(Instant::now));
            let flying_for = since.map(|since| since.elapsed()).next().unwrap_or_default();
            let (pods, pods_ready) = pods.get(&device.name).copied().unwrap_or_default();
            Seen {
                name: device.name.clone(),
                votes: matches!(device.role, DeviceRole::Leader | DeviceRole::Voter),
                leads: device.role == DeviceRole::Leader,
                ready: device.ready,
                pods,
                pods_ready,
                runs_new,
                on_trial,
                failure: state.zip(ticket).and_then(|(state, ticket)| failure(state, &ticket)),
                well_for: memory.well.get(&device.name).map(Instant::elapsed),
                flying_for,
            }
        });
        fleet.collect()
    }
}

/// Whether there is anything to look at: a paused one is, while devices are on their way.
fn concerns(rollout: &Rollout) -> bool {
    rollout.goes_on() || (!rollout.aborted && rollout.in_flight().next().is_some())
}

fn rollout_pause(flying: bool, goes_on: bool) -> Option<Duration> {
    match (flying, goes_on) {
        (true, _) => Some(TICK),
        (false, true) => Some(TICK_AWAY),
        (false, false) => None,
    }
}

/// Why a device did not go over, with the permission that this ticket names.
fn failure(state: &State, ticket: &str) -> Option<String> {
    if let Some((refused, why)) = &state.refused
        && refused == ticket
    {
        return Some(format!("it does not take the program: {why}"));
    }
    let last = state.last.as_ref().filter(|last| last.rollout == ticket && !last.well)?;
    Some(format!("{} did not stay: {}", last.version, last.why))
}

/// What a member runs, as it says.
pub(crate) async fn state_of(engine: &Engine, id: u64) -> Result<State, String> {
    let request = codec::encode(&PeerAsk::Program(Ask::State)).map_err(|error| error.to_string())?;
    let answer = engine.ask(id, request, ANSWER_WITHIN).await.map_err(|error| error.to_string())?;
    match codec::decode::<Answer>(&answer).map_err(|error| error.to_string())?? {
        Reply::State(text) => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Reply::Piece(_) => Err("its answer does not fit the question".into()),
    }
}

/// Pods of each device that should be ready, and that are.
fn pods_ready(engine: &Engine) -> BTreeMap<String, (usize, usize)> {
    let mut count: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let seen = engine.each_document("Pod", |document| {
        let Ok(pod) = serde_json::from_slice::<Value>(&document.body) else { return };
        let node = meta::text_at(&pod, "spec.nodeName");
        let over = ["Succeeded", "Failed"].contains(&meta::text_at(&pod, "status.phase"));
        let goes = !meta::text_at(&pod, "metadata.deletionTimestamp").is_empty();
        if node.is_empty() || over || goes {
            return;
        }
        let conditions = meta::list_at(&pod, "status.conditions");
        let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        let (pods, are) = count.entry(node.to_owned()).or_default();
        *pods += 1;
        *are += usize::from(ready);
    });
    if let Err(error) = seen {
        tracing::warn!(%error, "pods are not counted");
    }
    count
}

/// Writes the rollout's document.
pub(crate) async fn write(engine: &Engine, rollout: &Rollout, expect: Precondition) -> Result<(), String> {
    let object = serde_json::json!({
        "apiVersion": "kith.dev/v1", "kind": "Rollout", "metadata": {"name": NAME}, "spec": rollout,
    });
    let key = Key::new(KIND, "", NAME);
    let batch = Batch {
        checks: vec![Check { key: key.clone(), expect }],
        writes: vec![Write::Put { key, body: object.to_string().into_bytes() }],
    };
    match engine.propose(batch).await.map_err(|error| error.to_string())? {
        Outcome::Applied { .. } => Ok(()),
        Outcome::Refused { .. } => Err("it was changed meanwhile".into()),
    }
}

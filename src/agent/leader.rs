//! The leader's loop: while this device leads, it keeps a view of the fleet up to date, asks the
//! planner what to write, and proposes it. Every write carries preconditions, so a device that
//! only thinks it leads can do no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::clock::Clock;
use super::roll;
use crate::config::Config;
use crate::consensus::{Engine, Freshness, Replica};
use crate::metrics::counted;
use crate::planner::{self, Fleet, Liveness, Plan, PlannedBatch, Settings};
use crate::store::{Change, Event, Outcome};

/// How often the leader looks at who is silent.
const TICK: Duration = Duration::from_secs(1);

/// Batches of one plan that are on their way at once.
const IN_FLIGHT: usize = 32;

/// How the planner of this device decides.
pub(crate) fn settings(config: &Config) -> Settings {
    let lost_after = Duration::from_secs(config.lost_after_seconds);
    Settings { lost_after, sign_of_life: config.profile.sign_of_life() }
}

/// Leads whenever this device is the leader, for ever. Dropping it at any await loses nothing: the
/// next leader plans from the same state.
pub(crate) async fn lead(engine: Engine, clock: Arc<Clock>, settings: Settings, former: BTreeSet<String>) {
    let mut leadership = engine.leadership();
    loop {
        if leadership.wait_for(|now| now.is_leader).await.is_err() {
            return;
        }
        tracing::info!("this device leads the fleet");
        let (former, since) = (former.clone(), Instant::now());
        let term = Term { engine: engine.clone(), clock: clock.clone(), settings, former, since };
        // Cancel-safe: a term holds nothing that is not in the store.
        tokio::select! {
            () = term.run() => {}
            changed = leadership.wait_for(|now| !now.is_leader) => if changed.is_err() { return },
        }
        tracing::info!("this device no longer leads");
    }
}

/// Names of the devices of the time before a recovery, which may come back.
pub(super) fn former(enrolment: &crate::identity::Enrolment) -> BTreeSet<String> {
    let former = enrolment.revival.iter().flat_map(|revival| revival.former.values());
    former.map(|member| member.name.clone()).collect()
}

/// One stretch of leading.
struct Term {
    engine: Engine,
    clock: Arc<Clock>,
    settings: Settings,
    /// Devices of before a recovery that is not written down yet.
    former: BTreeSet<String>,
    since: Instant,
}

impl Term {
    async fn run(self) {
        let mut revisions = self.engine.revision();
        let mut view = None;
        let mut last_report = BTreeMap::new();
        let mut caught_up = false;
        loop {
            // Once, to have all that earlier leaders wrote; later only when the quorum was silent:
            // asking costs a round of messages, and what is planned carries preconditions.
            if !(caught_up && self.engine.leads_for_sure()) {
                if self.engine.barrier().await != Freshness::Current {
                    tokio::time::sleep(TICK).await;
                    continue;
                }
                caught_up = true;
            }
            revisions.borrow_and_update();
            // Cancel-safe: a view that is dropped is read again.
            let view = match self.catch_up(view.take()).await {
                Ok(fresh) => view.insert(fresh),
                Err(error) => {
                    tracing::error!(error, "the fleet's state can not be read");
                    tokio::time::sleep(TICK).await;
                    continue;
                }
            };
            self.observe_liveness(&mut view.fleet);
            let now = self.clock.now();
            let begun = Instant::now();
            let plan = planner::plan(&view.fleet, now);
            counted::PLANS.record(begun.elapsed());
            counted::PLANNED.add(plan.batches.len() as u64);
            log_report(&plan, &mut last_report);
            let wrote = self.execute(&plan).await;
            let pause = plan.wake_at.map_or(TICK, |at| at.since(now).clamp(Duration::from_millis(10), TICK));
            let until = tokio::time::Instant::now() + if wrote { TICK } else { pause };
            if !self.until_concerned(view, &mut revisions, until).await {
                return;
            }
        }
    }

    /// Keeps the view up to date until something changed that a plan can have to do with, or the
    /// time has come. False when the engine has stopped.
    async fn until_concerned(
        &self,
        view: &mut View,
        revisions: &mut tokio::sync::watch::Receiver<u64>,
        until: tokio::time::Instant,
    ) -> bool {
        loop {
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return false },
                () = tokio::time::sleep_until(until) => return true,
            }
            revisions.borrow_and_update();
            // Events that are gone: the next round reads everything again.
            let concerns = self.engine.events_since(view.revision, None).map_or(true, |events| view.take_in(events));
            if concerns {
                return true;
            }
        }
    }

    /// Brings the view to the latest revision by its events, or from scratch when these are gone.
    async fn catch_up(&self, view: Option<View>) -> Result<View, String> {
        if let Some(mut view) = view
            && let Ok(events) = self.engine.events_since(view.revision, None)
        {
            view.take_in(events);
            return Ok(view);
        }
        // A large state takes longer to read than heartbeats can wait.
        let (engine, settings) = (self.engine.clone(), self.settings);
        let read = tokio::task::spawn_blocking(move || View::read(&engine, settings));
        read.await.map_err(|error| error.to_string())?
    }

    fn observe_liveness(&self, fleet: &mut Fleet) {
        let members = self.engine.members().borrow().clone();
        let status = self.engine.status();
        fleet.members = members.values().map(|member| member.name.clone()).collect();
        // Devices of before a recovery may come back: they are lost like others, after some time.
        let known = roll::everyone(&self.engine).unwrap_or_default();
        let written = known.into_values().filter(|(known, _)| known.former).map(|(known, _)| known.name);
        let former = written.chain(self.former.iter().cloned());
        let former: BTreeSet<String> =
            former.filter(|name| !members.values().any(|member| member.name == *name)).collect();
        fleet.members.extend(former.iter().cloned());
        fleet.leader_for = self.since.elapsed();
        let asked = self.engine.asked();
        fleet.liveness = members
            .iter()
            .filter_map(|(id, member)| {
                let itself = (*id == status.member_id).then_some(Duration::ZERO);
                let silent_for = itself.or_else(|| status.last_heard.get(id).copied())?;
                let asked_for = itself.or_else(|| asked.get(id).copied());
                Some((member.name.clone(), Liveness { silent_for, asked_for }))
            })
            .collect();
        let silent_for = self.since.elapsed();
        fleet.liveness.extend(former.into_iter().map(|name| (name, Liveness { silent_for, asked_for: None })));
    }

    /// Proposes the batches of a plan; true when at least one applied and there is more to see.
    async fn execute(&self, plan: &Plan) -> bool {
        // Owned, so that the stream borrows neither the plan nor this term.
        let batches: Vec<_> = plan.batches.iter().map(|planned| (self.engine.clone(), planned.clone())).collect();
        let proposals = futures_util::stream::iter(batches).map(|(engine, planned)| propose(engine, planned));
        proposals.buffer_unordered(IN_FLIGHT).fold(false, |any, applied| async move { any || applied }).await
    }
}

/// Proposes one batch of a plan; true when it applied.
async fn propose(engine: Engine, planned: PlannedBatch) -> bool {
    match engine.propose(planned.batch).await {
        Ok(outcome) => {
            tracing::debug!(object = %planned.object, why = planned.why, ?outcome, "planned");
            matches!(outcome, Outcome::Applied { .. })
        }
        Err(error) => {
            tracing::warn!(object = %planned.object, why = planned.why, %error, "a planned write failed");
            false
        }
    }
}

/// The planner's view of the fleet at a revision.
struct View {
    fleet: Fleet,
    revision: u64,
}

impl View {
    fn read(engine: &Engine, settings: Settings) -> Result<Self, String> {
        let mut fresh = Self { fleet: Fleet::default(), revision: u64::MAX };
        fresh.fleet.settings = settings;
        for kind in Fleet::kinds() {
            let read = engine.each_document(&kind, |document| fresh.put(&document));
            // The oldest of the lists: events between it and the newest are applied again.
            fresh.revision = fresh.revision.min(read.map_err(|error| error.to_string())?);
        }
        Ok(fresh)
    }

    /// Takes events in; true when one of them can give a plan something to do.
    fn take_in(&mut self, events: Vec<Event>) -> bool {
        let mut concerns = false;
        for event in events {
            self.revision = event.revision;
            concerns |= self.fleet.is_planned(&event.key);
            let key = event.key.clone();
            match event.change {
                Change::Deleted => {
                    self.fleet.remove(&event.key);
                    concerns |= self.fleet.others.owned().next().is_some();
                }
                Change::Created | Change::Updated => self.put(&crate::store::Document {
                    key: event.key,
                    body: event.body.to_vec(),
                    created: event.created,
                    modified: event.revision,
                }),
            }
            concerns |= self.fleet.is_planned(&key);
        }
        concerns
    }

    fn put(&mut self, document: &crate::store::Document) {
        if let Err(skipped) = self.fleet.put(document) {
            tracing::warn!(object = %skipped.key, why = skipped.why, "the planner passes over an object");
        }
    }
}

/// Logs what the planner did not do and why, once for each change of the reason.
fn log_report(plan: &Plan, last: &mut BTreeMap<crate::store::Key, String>) {
    let report: BTreeMap<_, _> = plan.report.iter().map(|note| (note.object.clone(), note.text.clone())).collect();
    for (object, text) in &report {
        if last.get(object) != Some(text) {
            tracing::info!(%object, why = text, "waits");
        }
    }
    *last = report;
}

//! When each probe is due and what its results mean: one queue of moments for all probes of a device,
//! and thresholds. It has no clock and asks nobody: moments come in, probes that are due go out.
//!
//! ```text
//! orders --keep--> Prober --due--> (executed at the edge) --finish--> Health, events
//! ```
//!
//! A moment here is the time since the agent started, by a clock that is never set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use sha2::{Digest, Sha256};

use super::COMPONENT;
use super::container::ContainerRef;
use super::probes::{Health, ProbeKind, ProbeOrder};
use crate::resource::Timestamp;
use crate::resource::occurrence::Occurrence;

/// Probes that are due close to each other share one wake-up.
const GRAIN: Duration = Duration::from_millis(250);

/// The first probes of containers that start together are spread over so much.
const SPREAD: Duration = Duration::from_secs(1);

/// An event that says the same is not written again before.
const SAY_AGAIN: Duration = Duration::from_mins(5);

/// What came of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Success,
    /// It is not, and why.
    Failure(String),
    /// It could not be found out: this counts for nothing.
    Unknown(String),
}

/// What a result changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// Whether the health of the container is another.
    pub moved: bool,
    /// What is to be told.
    pub event: Option<Occurrence>,
}

type Key = (ContainerRef, ProbeKind);

/// All probes of a device.
#[derive(Debug, Default)]
pub struct Prober {
    entries: BTreeMap<Key, Entry>,
    queue: BTreeSet<(Duration, Key)>,
    health: BTreeMap<ContainerRef, Health>,
    node: String,
}

#[derive(Debug)]
struct Entry {
    order: ProbeOrder,
    /// When it is due; `None` while it is executed.
    next: Option<Duration>,
    last: Duration,
    /// Results in a row: whether they were successes, and how many.
    row: (bool, u32),
    told: Option<(String, Duration)>,
}

impl Prober {
    /// No probe yet, on this device.
    pub fn on(node: impl Into<String>) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Keeps exactly these probes going, and the health of containers that are still there. `now` is
    /// the moment; `wall` the same moment on the wall's clock, in which orders are given.
    pub fn keep(&mut self, orders: Vec<ProbeOrder>, there: &BTreeSet<ContainerRef>, now: Duration, wall: Timestamp) {
        self.health.retain(|container, _| there.contains(container));
        let mut old = std::mem::take(&mut self.entries);
        self.queue.clear();
        for order in orders {
            let key = (order.reference.clone(), order.kind);
            let entry = match old.remove(&key) {
                Some(entry) => Entry { order, ..entry },
                None => Entry::new(order, now, wall),
            };
            if let Some(next) = entry.next {
                self.queue.insert((next, key.clone()));
            }
            self.entries.insert(key, entry);
        }
    }

    /// When the next probe is due.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(next, _)| *next)
    }

    /// The probe that is due for the longest, if any is. It is not due again before it has finished.
    pub fn due(&mut self, now: Duration) -> Option<ProbeOrder> {
        let (next, key) = self.queue.first().filter(|(next, _)| *next <= now).cloned()?;
        self.queue.remove(&(next, key.clone()));
        let entry = self.entries.get_mut(&key)?;
        entry.next = None;
        entry.last = next;
        Some(entry.order.clone())
    }

    /// Takes the result of a probe that was due.
    pub fn finish(&mut self, order: &ProbeOrder, outcome: &Outcome, now: Duration) -> Finished {
        let key = (order.reference.clone(), order.kind);
        // Its container has gone meanwhile.
        let Some(entry) = self.entries.get_mut(&key) else { return Finished::default() };
        entry.count(outcome);
        let health = self.health.entry(order.reference.clone()).or_default();
        let before = health.clone();
        entry.judge(health);
        let moved = *health != before;
        let event = entry.tell(outcome, now).map(|message| occurrence(order, message, &self.node));
        // One that is to be ended is not asked again.
        if health.failed.is_none() {
            let mut next = entry.last + entry.order.period;
            if next < now {
                next = rounded(now + entry.order.period);
            }
            entry.next = Some(next);
            self.queue.insert((next, key));
        }
        Finished { moved, event }
    }

    /// What is known of each container.
    pub fn health(&self) -> BTreeMap<ContainerRef, Health> {
        self.health.clone()
    }
}

impl Entry {
    fn new(order: ProbeOrder, now: Duration, wall: Timestamp) -> Self {
        // Probes of one moment are spread: over a second when the container is new, over the period
        // when it has run for long, as all do when an agent starts.
        let fresh = order.not_before.plus(SPREAD) >= wall;
        let within = if fresh { SPREAD.min(order.period) } else { order.period };
        let delay = order.not_before.since(wall) + share(&order, within);
        let next = rounded(now + delay);
        Self { order, next: Some(next), last: next, row: (false, 0), told: None }
    }

    fn count(&mut self, outcome: &Outcome) {
        let success = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => return,
        };
        let (same, count) = self.row;
        self.row = if same == success { (success, count.saturating_add(1)) } else { (success, 1) };
    }

    fn judge(&self, health: &mut Health) {
        let (succeeded, count) = self.row;
        let enough = count >= if succeeded { self.order.successes } else { self.order.failures };
        match (self.order.kind, succeeded) {
            _ if !enough => {}
            (ProbeKind::Startup, true) => health.started = true,
            (ProbeKind::Readiness, ready) => health.ready = Some(ready),
            (ProbeKind::Startup | ProbeKind::Liveness, false) => health.failed = Some(self.order.kind),
            (ProbeKind::Liveness, true) => {}
        }
    }

    /// A failure is told when it is new or was told long ago: each one would wear out the disks.
    fn tell(&mut self, outcome: &Outcome, now: Duration) -> Option<String> {
        let text = match outcome {
            Outcome::Success => {
                self.told = None;
                return None;
            }
            Outcome::Failure(why) => format!("{} probe failed: {why}", self.order.kind.name()),
            Outcome::Unknown(why) => format!("{} probe errored: {why}", self.order.kind.name()),
        };
        if self.told.as_ref().is_some_and(|(told, at)| *told == text && now < *at + SAY_AGAIN) {
            return None;
        }
        self.told = Some((text.clone(), now));
        Some(text)
    }
}

/// The next moment of the grain.
fn rounded(moment: Duration) -> Duration {
    let grain = GRAIN.as_millis();
    let millis = moment.as_millis().div_ceil(grain).saturating_mul(grain);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// A share of a span that is this container's own, the same whenever it is asked for.
fn share(order: &ProbeOrder, within: Duration) -> Duration {
    let digest = Sha256::digest(order.reference.id());
    let part = u32::from_be_bytes([0, 0, digest[0], digest[1]]);
    within * part / (1 << 16)
}

fn occurrence(order: &ProbeOrder, message: String, node: &str) -> Occurrence {
    let (pod, name) = (&order.reference.pod, &order.reference.container);
    let involved = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        field_path: Some(format!("spec.{}{{{name}}}", order.list)),
        ..ObjectReference::default()
    };
    Occurrence { involved, warning: true, reason: "Unhealthy", message, component: COMPONENT, host: node.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::container::PodRef;
    use super::super::handler::Handler;
    use super::*;

    const WALL: Timestamp = Timestamp(1_800_000_000_000);

    fn order(pod: u32, kind: ProbeKind) -> ProbeOrder {
        let pod = PodRef { namespace: "default".into(), name: format!("web-{pod}"), uid: format!("u{pod}") };
        ProbeOrder {
            reference: ContainerRef { pod, container: "web".into(), attempt: 0 },
            list: "containers",
            kind,
            handler: Handler::Tcp { host: "10.0.0.1".into(), port: 80 },
            not_before: WALL,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            successes: 1,
            failures: 3,
        }
    }

    fn prober(orders: &[ProbeOrder], wall: Timestamp) -> Prober {
        let mut prober = Prober::on("a");
        let there = orders.iter().map(|order| order.reference.clone()).collect();
        prober.keep(orders.to_vec(), &there, Duration::ZERO, wall);
        prober
    }

    /// Takes the next probe when it is due, and answers it at once.
    fn turn(prober: &mut Prober, outcome: &Outcome) -> (Duration, Finished) {
        let now = prober.next().unwrap();
        let order = prober.due(now).unwrap();
        assert_eq!(prober.due(now), None, "not twice at once");
        (now, prober.finish(&order, outcome, now))
    }

    fn failure() -> Outcome {
        Outcome::Failure("connection refused".into())
    }

    #[test]
    fn thresholds_count_in_a_row() {
        let order = ProbeOrder { successes: 2, ..order(1, ProbeKind::Readiness) };
        let mut prober = prober(std::slice::from_ref(&order), WALL);
        let ready = |prober: &Prober| prober.health().get(&order.reference).and_then(|health| health.ready);
        let steps = [
            (Outcome::Success, None),
            (failure(), None),
            (Outcome::Success, None),
            (Outcome::Unknown("busy".into()), None),
            (Outcome::Success, Some(true)),
            (failure(), Some(true)),
            (failure(), Some(true)),
            (failure(), Some(false)),
        ];
        for (outcome, wanted) in steps {
            let before = ready(&prober);
            let (_, finished) = turn(&mut prober, &outcome);
            assert_eq!(ready(&prober), wanted, "{outcome:?}");
            assert_eq!(finished.moved, before != wanted);
        }
    }

    #[test]
    fn periods_are_kept_and_what_has_failed_is_not_asked_again() {
        let mut prober = prober(&[order(1, ProbeKind::Liveness)], WALL);
        let (first, _) = turn(&mut prober, &failure());
        assert!(first <= SPREAD + GRAIN);
        let (second, _) = turn(&mut prober, &failure());
        assert_eq!(second, first + Duration::from_secs(10));
        let (_, finished) = turn(&mut prober, &failure());
        assert!(finished.moved);
        assert_eq!(prober.next(), None);
    }

    #[test]
    fn a_failure_is_told_once_until_it_changes_or_ends() {
        let mut prober = prober(&[order(1, ProbeKind::Readiness)], WALL);
        let (_, first) = turn(&mut prober, &failure());
        let event = first.event.unwrap();
        assert_eq!(event.message, "Readiness probe failed: connection refused");
        assert_eq!(event.involved.field_path.as_deref(), Some("spec.containers{web}"));
        assert_eq!(turn(&mut prober, &failure()).1.event, None);
        assert!(turn(&mut prober, &Outcome::Failure("no answer".into())).1.event.is_some());
        turn(&mut prober, &Outcome::Success);
        assert!(turn(&mut prober, &failure()).1.event.is_some());
        let told = (0..31).filter(|_| turn(&mut prober, &failure()).1.event.is_some()).count();
        assert_eq!(told, 1, "again after five minutes");
    }

    #[test]
    fn an_initial_delay_counts_from_the_start_of_the_container() {
        let late = ProbeOrder { not_before: WALL.plus(Duration::from_secs(30)), ..order(1, ProbeKind::Liveness) };
        let next = prober(&[late], WALL).next().unwrap();
        assert!(next >= Duration::from_secs(30) && next <= Duration::from_secs(31) + GRAIN, "{next:?}");
    }

    #[test]
    fn after_a_restart_of_the_agent_probes_are_spread_over_their_period() {
        let orders: Vec<_> = (0..50).map(|pod| order(pod, ProbeKind::Liveness)).collect();
        let mut prober = prober(&orders, WALL.plus(Duration::from_hours(1)));
        let mut seconds = BTreeSet::new();
        let mut now = Duration::ZERO;
        while let Some(next) = prober.next().filter(|next| *next < Duration::from_secs(10)) {
            now = next;
            let order = prober.due(now).unwrap();
            prober.finish(&order, &Outcome::Success, now);
            seconds.insert(now.as_secs());
        }
        assert!(now < Duration::from_secs(11) && seconds.len() >= 8, "{seconds:?}");
    }

    #[test]
    fn orders_that_stay_keep_their_moments_and_health_stays_with_its_container() {
        let orders = [order(1, ProbeKind::Startup), order(2, ProbeKind::Liveness)];
        let mut prober = prober(&orders, WALL);
        while prober.health().is_empty() {
            turn(&mut prober, &Outcome::Success);
        }
        let there: BTreeSet<_> = orders.iter().map(|order| order.reference.clone()).collect();
        prober.keep(vec![orders[1].clone()], &there, Duration::from_secs(2), WALL);
        let next = prober.next();
        prober.keep(vec![orders[1].clone()], &there, Duration::from_secs(3), WALL);
        assert_eq!(prober.next(), next);
        prober.keep(vec![], &BTreeSet::new(), Duration::from_secs(3), WALL);
        assert!(prober.health().is_empty() && prober.next().is_none());
    }
}

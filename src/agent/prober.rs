//! Keeps the probes of this device going: one task, one queue of moments, a bounded number of probes
//! on their way. What they mean is counted by the reconciler's [`Prober`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::clock::Clock;
use super::reports::Reports;
use crate::metrics::counted;
use crate::probing::Asker;
use crate::reconciler::container::ContainerRef;
use crate::reconciler::{Health, Outcome, ProbeOrder, Prober};

/// Probes on their way at once; others wait for their turn.
const AT_ONCE: usize = 16;

/// The probes that should go on, and the containers that are there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) orders: Vec<ProbeOrder>,
    pub(crate) there: BTreeSet<ContainerRef>,
}

/// The device loop's side of the prober.
pub(crate) struct Probes {
    wanted: watch::Sender<Wanted>,
    health: watch::Receiver<BTreeMap<ContainerRef, Health>>,
}

/// The task's side.
pub(crate) struct Probing {
    pub(crate) asker: Asker,
    pub(crate) clock: Arc<Clock>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) node: String,
    wanted: watch::Receiver<Wanted>,
    health: watch::Sender<BTreeMap<ContainerRef, Health>>,
}

impl Probing {
    /// A prober and the loop's side of it.
    pub(crate) fn new(asker: Asker, clock: Arc<Clock>, reports: Arc<Reports>, node: String) -> (Self, Probes) {
        let (wanted, orders) = watch::channel(Wanted::default());
        let (health, found) = watch::channel(BTreeMap::new());
        (Self { asker, clock, reports, node, wanted: orders, health }, Probes { wanted, health: found })
    }

    /// Probes for ever. Being dropped gives up the probes on their way, which changes nothing.
    pub(crate) async fn run(mut self) {
        let origin = Instant::now();
        let mut prober = Prober::on(self.node.clone());
        let mut flying = FuturesUnordered::new();
        loop {
            while flying.len() < AT_ONCE
                && let Some(order) = prober.due(origin.elapsed())
            {
                flying.push(ask(self.asker.clone(), order));
            }
            let next = prober.next().filter(|_| flying.len() < AT_ONCE);
            // Cancel-safe: a watch, a set of futures that stay, and a timer.
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = self.wanted.borrow_and_update().clone();
                    prober.keep(wanted.orders, &wanted.there, origin.elapsed(), self.clock.now());
                }
                Some((order, outcome)) = flying.next() => {
                    if let Outcome::Failure(_) = &outcome {
                        counted::probe_failed(order.kind.label());
                    }
                    let finished = prober.finish(&order, &outcome, origin.elapsed());
                    if finished.moved {
                        self.health.send_replace(prober.health());
                    }
                    if let Some(event) = finished.event {
                        self.reports.event(event);
                    }
                }
                () = until(origin, next) => {}
            }
        }
    }
}

impl Probes {
    /// Says which probes should go on.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|known| {
            let other = *known != wanted;
            if other {
                *known = wanted;
            }
            other
        });
    }

    /// What is known of each container.
    pub(crate) fn health(&mut self) -> BTreeMap<ContainerRef, Health> {
        self.health.borrow_and_update().clone()
    }

    /// Returns when the health of a container has changed.
    pub(crate) async fn moved(&mut self) {
        if self.health.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn ask(asker: Asker, order: ProbeOrder) -> (ProbeOrder, Outcome) {
    let outcome = asker.ask(&order.reference, &order.handler, order.timeout).await;
    (order, outcome)
}

async fn until(origin: Instant, next: Option<Duration>) {
    match next {
        Some(next) => tokio::time::sleep_until(origin + next).await,
        None => std::future::pending().await,
    }
}

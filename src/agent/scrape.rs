//! `/metrics`: gathers what there is when somebody asks, and nothing in between. On the API it is for
//! whoever has a certificate of the fleet; on the plain listener of agent.toml for whoever reaches it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE as TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::tasks::Tasks;
use super::{AgentError, file};
use crate::config::MetricsConfig;
use crate::consensus::{Engine, EngineStatus};
use crate::identity::Enrolment;
use crate::images::ImageStore;
use crate::metrics::{CONTENT_TYPE, Page, counted, family, real};
use crate::transport::Transport;
use crate::upgrade::release;

/// Where the numbers are, on the API and on the plain listener.
pub(crate) const PATH: &str = "/metrics";

/// Connections of the plain listener at a time.
const CONNECTIONS: usize = 8;
/// How long one of them may live: a scrape is one request.
const CONNECTION_LIFE: Duration = Duration::from_mins(1);
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Phases that are shown also when no pod is in them.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// What the numbers come from.
pub(crate) struct Scrape {
    engine: Engine,
    transport: Transport,
    /// `None` on a witness.
    images: Option<Arc<ImageStore>>,
    enrolment: Enrolment,
    begun: Instant,
}

impl Scrape {
    pub(crate) fn new(
        engine: &Engine,
        transport: &Transport,
        images: Option<Arc<ImageStore>>,
        enrolment: &Enrolment,
    ) -> Self {
        let (engine, transport) = (engine.clone(), transport.clone());
        Self { engine, transport, images, enrolment: enrolment.clone(), begun: Instant::now() }
    }

    /// The page. Reads files and the replica, so it is made where nobody waits for heartbeats.
    pub(crate) async fn text(self: Arc<Self>) -> String {
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let work = tokio::task::spawn_blocking(move || self.page(tasks));
        work.await.unwrap_or_else(|error| format!("# the numbers could not be gathered: {error}\n"))
    }

    fn page(&self, tasks: usize) -> String {
        let mut page = Page::default();
        let status = self.engine.status();
        self.agent(&mut page, tasks);
        raft(&mut page, &status);
        self.fleet(&mut page, &status);
        self.store(&mut page, &status);
        self.links(&mut page);
        api(&mut page);
        self.images(&mut page);
        page.finish()
    }

    fn agent(&self, page: &mut Page, tasks: usize) {
        let build = [release::version(), std::env::consts::ARCH];
        page.all(&family::BUILD_INFO, [(build, 1.0)]);
        let enrolment = &self.enrolment;
        let device = [enrolment.name.clone(), enrolment.member_id.to_string(), enrolment.fleet.clone()];
        page.all(&family::DEVICE_INFO, [(device, 1.0)]);
        page.one(&family::UPTIME, self.begun.elapsed().as_secs_f64());
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            page.one(&family::CPU, Duration::from_micros(micros.unsigned_abs()).as_secs_f64());
        }
        let memory = fields("/proc/self/smaps_rollup");
        let kib = |key: &str| memory.get(key).map(|kib| kib.saturating_mul(1024));
        let kinds = [("resident", kib("Rss")), ("proportional", kib("Pss"))];
        page.all(&family::MEMORY, kinds.into_iter().filter_map(|(kind, bytes)| Some(([kind], real(bytes?)))));
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        page.count(&family::OPEN_FILES, open as u64);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        page.all(&family::OPEN_FILES_LIMIT, soft.and_then(|soft| soft.parse().ok()).map(|soft| ([""; 0], real(soft))));
        page.count(&family::THREADS, fields("/proc/self/status").get("Threads").copied().unwrap_or_default());
        page.count(&family::TASKS, tasks as u64);
        let io = fields("/proc/self/io");
        page.count(&family::AGENT_WRITTEN, io.get("write_bytes").copied().unwrap_or_default());
        page.count(&family::AGENT_READ, io.get("read_bytes").copied().unwrap_or_default());
    }

    fn fleet(&self, page: &mut Page, status: &EngineStatus) {
        let roles = [("voter", &status.voters), ("learner", &status.learners), ("mirror", &status.mirrors)];
        page.all(&family::MEMBERS, roles.map(|(role, members)| ([role], real(members.len() as u64))));
        let leads = status.leader == Some(status.member_id);
        let (own, all) = self.pods();
        if leads {
            let ready = self.devices();
            page.all(&family::DEVICES, ready.map(|(ready, count)| ([ready], real(count))));
            page.all(&family::FLEET_PODS, all.iter().map(|(phase, count)| ([phase], real(*count))));
        }
        page.all(&family::PODS, own.iter().map(|(phase, count)| ([phase], real(*count))));
        page.count(&family::STARTS, counted::STARTS.total());
        page.count(&family::RESTARTS, counted::RESTARTS.total());
        let failures = counted::PROBE_FAILURES.iter();
        page.all(&family::PROBE_FAILURES, failures.map(|(probe, count)| ([*probe], real(count.total()))));
        page.histograms(&family::ROUNDS, [([""; 0], &counted::ROUNDS)]);
        page.count(&family::ACTIONS, counted::ACTIONS.total());
        page.histograms(&family::PLANS, [([""; 0], &counted::PLANS)]);
        page.count(&family::PLANNED, counted::PLANNED.total());
    }

    /// Pods of this device and of the fleet, by phase.
    fn pods(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let none = || PHASES.map(|phase| (phase.to_owned(), 0)).into_iter().collect::<BTreeMap<_, _>>();
        let (mut own, mut all) = (none(), none());
        let seen = self.engine.each_document("Pod", |document| {
            let Ok(pod) = serde_json::from_slice::<Brief>(&document.body) else { return };
            let phase = pod.status.phase.filter(|phase| PHASES.contains(&phase.as_str()));
            let phase = phase.unwrap_or_else(|| "Pending".into());
            if pod.spec.node_name.as_deref() == Some(&*self.enrolment.name) {
                *own.entry(phase.clone()).or_default() += 1;
            }
            *all.entry(phase).or_default() += 1;
        });
        if let Err(error) = seen {
            tracing::warn!(%error, "pods are not counted");
        }
        (own, all)
    }

    /// Devices of the fleet that are ready, and that are not.
    fn devices(&self) -> [(&'static str, u64); 2] {
        let (mut ready, mut not) = (0, 0);
        let seen = self.engine.each_document("Node", |document| {
            let Ok(node) = serde_json::from_slice::<Brief>(&document.body) else { return };
            let is = node.status.conditions.iter().any(|one| one.kind == "Ready" && one.status == "True");
            *(if is { &mut ready } else { &mut not }) += 1;
        });
        if let Err(error) = seen {
            tracing::warn!(%error, "devices are not counted");
        }
        [("true", ready), ("false", not)]
    }

    fn store(&self, page: &mut Page, status: &EngineStatus) {
        page.count(&family::REVISION, status.revision);
        match self.engine.storage_figures() {
            Ok((state, log, free)) => {
                page.count(&family::DOCUMENTS, state.documents);
                page.all(&family::STORE_BYTES, [(["log"], real(log)), (["state"], real(state.bytes))]);
                page.count(&family::FREE_BYTES, free);
                page.count(&family::RING_EVENTS, state.ring_events as u64);
                page.count(&family::RING_BYTES, state.ring_bytes as u64);
            }
            Err(error) => tracing::warn!(%error, "the store is not measured"),
        }
        page.count(&family::WATCHES, counted::WATCHES.now());
        let written = [&counted::LOG, &counted::STATE, &counted::OTHER];
        page.all(&family::DISK_WRITTEN, written.map(|files| ([files.file], real(files.bytes.total()))));
        page.histograms(&family::DISK_SYNCS, written.map(|files| ([files.file], &files.syncs)));
    }

    fn links(&self, page: &mut Page) {
        let members = self.engine.members().borrow().clone();
        let names: BTreeMap<_, _> = members.values().map(|member| (member.key, member.name.clone())).collect();
        let reach: Vec<_> = self.transport.reachable().into_iter().collect();
        // A key without a name is one that has just joined or left.
        let known: Vec<_> = reach.iter().filter_map(|(key, reach)| Some((names.get(key)?.as_str(), reach))).collect();
        let bytes = known.iter().flat_map(|(name, reach)| {
            [([*name, "sent"], real(reach.sent)), ([*name, "received"], real(reach.received))]
        });
        page.all(&family::LINK_BYTES, bytes);
        page.all(&family::LINK_CONNECTED, known.iter().map(|(name, reach)| ([*name], truth(reach.connected))));
        page.all(&family::LINK_ROUND_TRIP, known.iter().map(|(name, reach)| ([*name], reach.rtt.as_secs_f64())));
    }

    fn images(&self, page: &mut Page) {
        if let Some(images) = &self.images {
            match images.figures() {
                Ok((count, bytes)) => {
                    page.count(&family::IMAGES, count as u64);
                    page.count(&family::IMAGE_BYTES, bytes);
                }
                Err(error) => tracing::warn!(%error, "images are not counted"),
            }
        }
        let pulls = [("success", &counted::PULLS), ("failure", &counted::FAILED_PULLS)];
        page.all(&family::PULLS, pulls.map(|(result, count)| ([result], real(count.total()))));
        page.count(&family::PULLED_BYTES, counted::PULLED_BYTES.total());
    }

    /// Serves the page to whoever reaches an address, without asking who it is.
    pub(crate) async fn listen(self: Arc<Self>, config: &MetricsConfig, tasks: &Tasks) -> Result<(), AgentError> {
        let Some(address) = config.address() else { return Ok(()) };
        let listener = TcpListener::bind(address)
            .await
            .map_err(file(format!("listen on {address} for metrics (metrics.listen in agent.toml)")))?;
        let spawning = tasks.clone();
        tasks.spawn("serve metrics", async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                let (stream, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "accept a connection for metrics");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::debug!(%from, limit = CONNECTIONS, "too many connections for metrics, one was closed");
                    continue;
                };
                let scrape = self.clone();
                spawning.spawn("answer a scrape", async move {
                    // Nothing is lost with a connection that is too old: the next scrape opens another.
                    let _ = tokio::time::timeout(CONNECTION_LIFE, scrape.connection(stream)).await;
                    drop(place);
                });
            }
        });
        Ok(())
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request| {
            let scrape = self.clone();
            async move { Ok::<_, Infallible>(scrape.answer(&request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection for metrics ended early");
        }
    }

    async fn answer<B>(self: Arc<Self>, request: &Request<B>) -> Response<Full<Bytes>> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let (status, kind, body) = match request.uri().path() {
            PATH if reads => (StatusCode::OK, CONTENT_TYPE, self.text().await),
            PATH => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered here\n".into()),
            _ => (StatusCode::NOT_FOUND, "text/plain", format!("only {PATH} is here\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(TYPE, hyper::header::HeaderValue::from_static(kind));
        response
    }
}

fn raft(page: &mut Page, status: &EngineStatus) {
    let members = [&status.voters, &status.learners, &status.mirrors];
    let name = |id: &u64| {
        let known = members.iter().find_map(|members| members.get(id));
        known.map_or_else(|| id.to_string(), |member| member.name.clone())
    };
    let leads = status.leader == Some(status.member_id);
    page.count(&family::TERM, status.term);
    page.one(&family::IS_LEADER, truth(leads));
    page.one(&family::HAS_LEADER, truth(status.leader.is_some()));
    page.all(&family::LEADER_INFO, status.leader.iter().map(|id| ([name(id)], 1.0)));
    page.one(&family::IS_VOTER, truth(status.voters.contains_key(&status.member_id)));
    page.all(&family::LAST_LOG, status.last_log.map(|index| ([""; 0], real(index))));
    page.all(&family::APPLIED, status.applied.map(|index| ([""; 0], real(index))));
    page.histograms(&family::COMMITS, [([""; 0], &counted::COMMITS)]);
    page.count(&family::FAILED_PROPOSALS, counted::FAILED_PROPOSALS.total());
    page.count(&family::ELECTIONS_WON, counted::ELECTIONS_WON.total());
    page.count(&family::LEADER_CHANGES, counted::LEADER_CHANGES.total());
    if leads {
        page.all(&family::PEER_LAG, status.lag.iter().map(|(id, lag)| ([name(id)], real(*lag))));
        let silence = status.last_heard.iter().map(|(id, silence)| ([name(id)], silence.as_secs_f64()));
        page.all(&family::PEER_SILENCE, silence);
    }
    let silence = if leads { Some(Duration::ZERO) } else { status.contact_age };
    page.all(&family::LEADER_SILENCE, silence.map(|silence| ([""; 0], silence.as_secs_f64())));
    page.one(&family::STOPPED, truth(status.failure.is_some()));
}

fn api(page: &mut Page) {
    let requests = counted::REQUESTS.counts();
    let requests = requests
        .into_iter()
        .map(|(verb, resource, code, count)| ([verb.to_owned(), resource.to_owned(), code.to_string()], real(count)));
    page.all(&family::REQUESTS, requests);
    page.histograms(&family::REQUEST_TIMES, counted::REQUESTS.times().map(|(verb, times)| ([verb], times)));
    page.count(&family::CONNECTIONS, counted::CONNECTIONS.now());
}

/// What of an object is counted.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Brief {
    spec: BriefSpec,
    status: BriefStatus,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BriefSpec {
    node_name: Option<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct BriefStatus {
    phase: Option<String>,
    conditions: Vec<BriefCondition>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct BriefCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// `Key:  12 kB` lines of a file in `/proc`.
fn fields(path: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let field = |line: &str| {
        let (key, rest) = line.split_once(':')?;
        Some((key.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(field).collect()
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_the_agent_uses() {
        assert!(fields("/proc/self/smaps_rollup")["Pss"] > 0);
        assert!(fields("/proc/self/status")["Threads"] > 0);
        assert!(fields("/proc/self/io").contains_key("write_bytes"));
        assert_eq!(fields("/proc/nothing"), BTreeMap::new());
    }
}

//! The devices of one run: it starts them, takes their power, adds and removes them, and in the end
//! demands that the fleet heals. Everything happens on simulated time, on one thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith::consensus::{Engine, EngineConfig, EngineError, Freshness, MirrorSettings, Presence, Probe, Replica};
use kith::identity::{Member, Run, Stamp};
use kith::resource::Timestamp;
use kith::store::{Batch, Outcome, Write};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checks::{Oracle, check_history};
use super::client::{self, Book, Client, Tally};
use super::disk::DeviceDisk;
use super::network::{Host, Net, Weather, key};
use super::schedule::{Plan, stream};
use super::trace::Trace;

/// What went on in a run that found nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub trace: u64,
    pub events: u64,
    pub simulated: Duration,
    /// What the processor spent on it.
    pub processor: Duration,
    pub cuts: u64,
    pub starts: u64,
    pub messages: u64,
    pub entries: u64,
    pub tally: Tally,
}

/// What tasks of a run tell it.
#[derive(Debug)]
enum News {
    /// The power of a device failed in the middle of a write.
    Dark {
        number: u64,
        run: u64,
        probe: Option<Box<Probe>>,
    },
    Joined(u64, u64),
    NotJoined,
    Left(u64),
    NotLeft,
}

pub struct Device {
    pub number: u64,
    member_id: u64,
    pub disk: DeviceDisk,
    /// Milliseconds since 1970 when the run began, by this device's clock.
    wall: Arc<AtomicU64>,
    runs: u64,
    /// When it gets its power back.
    wakes: Option<Instant>,
}

pub struct World {
    pub plan: Plan,
    pub net: Net,
    pub trace: Trace,
    pub devices: BTreeMap<u64, Device>,
    pub chance: StdRng,
    pub changing: bool,
    book: Book,
    oracle: Oracle,
    next_device: u64,
    next_client: u64,
    cuts: u64,
    news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
}

/// How often the last write of a device is tried: its answer may take longer than a try lasts.
const LAST_TRIES: usize = 10;
/// Noon of some day.
const BEGIN: u64 = 1_800_000_000_000;

type Verdict<T = ()> = Result<T, String>;

pub fn member(number: u64) -> Member {
    Member { name: format!("lamp-{number}"), key: key(number), ..Member::default() }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let trace = Trace::new();
        let (tell, news) = mpsc::unbounded_channel();
        let net = Net::new(stream(plan.seed, 2), plan.weather, trace.clone());
        let chance = StdRng::seed_from_u64(stream(plan.seed, 3));
        Self {
            plan,
            net,
            trace,
            devices: BTreeMap::new(),
            chance,
            changing: false,
            book: Book::default(),
            oracle: Oracle::default(),
            next_device: 1,
            next_client: 1,
            cuts: 0,
            news,
            tell,
        }
    }

    /// One whole run: the fleet forms, suffers, and heals.
    pub async fn run(mut self) -> Verdict<Report> {
        self.form().await?;
        let stop = CancellationToken::new();
        let clients: Vec<_> = (1..=self.plan.clients).map(|number| self.spawn_client(number, &stop)).collect();
        let end = Instant::now() + self.plan.length;
        while Instant::now() < end {
            let fault = self.plan.fault(&mut self.chance);
            self.trace.note("fault", format!("{fault:?}"));
            self.inflict(fault).await?;
            let pause = self.chance.random_range(self.plan.pause.0..=self.plan.pause.1);
            self.live(Duration::from_millis(pause)).await?;
        }
        self.heal().await?;
        stop.cancel();
        for client in clients {
            client.await.map_err(|error| format!("a client ended: {error}"))?;
        }
        self.conclude().await
    }

    fn spawn_client(&self, number: u64, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let client = Client {
            number,
            net: self.net.clone(),
            book: self.book.clone(),
            trace: self.trace.clone(),
            pause: self.plan.client_pause,
            stop: stop.clone(),
        };
        tokio::spawn(client.run(stream(self.plan.seed, 100 + number)))
    }

    fn new_device(&mut self) -> u64 {
        let number = self.next_device;
        self.next_device += 1;
        number
    }

    fn place_device(&mut self, number: u64, member_id: u64) {
        let disk = DeviceDisk::new(number, stream(self.plan.seed, 1000 + number), self.plan.disk, self.trace.clone());
        let wall = Arc::new(AtomicU64::new(BEGIN));
        self.devices.insert(number, Device { number, member_id, disk, wall, runs: 0, wakes: None });
    }

    /// The first device founds the fleet, and the others join; the power may fail while they do.
    async fn form(&mut self) -> Verdict {
        let first = self.new_device();
        self.place_device(first, 1);
        self.start(first).await?;
        let end = Instant::now() + Duration::from_millis(self.plan.unit * 600) + Duration::from_mins(10);
        loop {
            if let Some(host) = self.net.host(first) {
                match host.dead.run_until_cancelled(host.engine.bootstrap(1, member(first))).await {
                    Some(Ok(()) | Err(EngineError::AlreadyFormed)) => break,
                    Some(Err(error)) if !host.dead.is_cancelled() => {
                        return Err(format!("the fleet is not founded: {error}"));
                    }
                    _ => {}
                }
            }
            self.live(Duration::from_millis(10)).await?;
        }
        while u64::try_from(self.devices.len()).unwrap() < self.plan.devices {
            self.join();
            while self.changing {
                self.live(Duration::from_millis(self.plan.unit / 4)).await?;
                if Instant::now() > end {
                    return Err(format!("the fleet does not form:\n{}", self.describe()));
                }
            }
        }
        Ok(())
    }

    /// Gives a device its power, or gives it back.
    pub async fn start(&mut self, number: u64) -> Verdict {
        let fuse = self.chance.random_bool(0.25).then(|| self.chance.random_range(1..40));
        let client = stream(self.plan.seed, (1 << 32) + self.next_client);
        self.next_client += 1;
        let start = self.trace.clone();
        let Some(device) = self.devices.get_mut(&number) else { return Ok(()) };
        device.runs += 1;
        device.wakes = None;
        let (run, wall) = (device.runs, device.wall.clone());
        let config = EngineConfig {
            data_dir: PathBuf::from(format!("/lamp-{number}")),
            disk: device.disk.mount(),
            sizes: kith::storage::Sizes::default(),
            member_id: device.member_id,
            profile: self.plan.profile,
            wire: self.net.wire(number, run),
            wall: Arc::new(move || Timestamp(wall.load(Ordering::Relaxed) + start.millis())),
            client,
            mirrors: MirrorSettings::default(),
            presence: Presence {
                stamp: Stamp { run: Run { starts: run, nonce: client }, ..Stamp::default() },
                ..Presence::default()
            },
        };
        let lost = CancellationToken::new();
        if let Some(operations) = fuse {
            self.light_fuse(number, operations, lost.clone());
        }
        self.trace.note("start", (number, run));
        let started = tokio::time::timeout(Duration::from_mins(10), Engine::start(config)).await;
        match started {
            Ok(Ok(engine)) if lost.is_cancelled() => bury(engine),
            _ if lost.is_cancelled() => {}
            Err(_) => return Err(format!("device {number} does not start within ten minutes")),
            Ok(Err(error)) => return Err(format!("device {number} does not start: {}", chain(&error))),
            Ok(Ok(engine)) => self.net.plug_in(Host { engine, number, run, dead: lost }),
        }
        Ok(())
    }

    /// Lets the power of a device fail in the middle of one of its next writes.
    pub fn light_fuse(&self, number: u64, operations: u64, lost: CancellationToken) {
        let Some(device) = self.devices.get(&number) else { return };
        let (net, tell, run) = (self.net.clone(), self.tell.clone(), device.runs);
        let alarm = move || {
            lost.cancel();
            let host = net.unplug(number, run);
            let probe = host.as_ref().map(|host| Box::new(host.engine.probe()));
            host.into_iter().for_each(|host| bury(host.engine));
            let _ = tell.send(News::Dark { number, run, probe });
        };
        device.disk.light_fuse(operations, Box::new(alarm));
    }

    /// Takes the power of a device.
    pub fn cut(&mut self, number: u64) {
        let Some(device) = self.devices.get(&number) else { return };
        let run = device.runs;
        self.trace.note("cut", (number, run));
        if let Some(host) = self.net.host(number) {
            self.oracle.power_lost(number, &host.engine.probe());
        }
        device.disk.cut();
        if let Some(host) = self.net.unplug(number, run) {
            bury(host.engine);
        }
        self.dark(number);
    }

    fn dark(&mut self, number: u64) {
        self.cuts += 1;
        let unit = self.plan.unit;
        let longest = [1, unit, unit * 3, unit * 20][self.chance.random_range(0..4)];
        let off = Duration::from_millis(self.chance.random_range(0..=longest));
        if let Some(device) = self.devices.get_mut(&number) {
            device.wakes = Some(Instant::now() + off);
        }
    }

    /// Stops a device in order; it starts again soon.
    pub async fn stop(&mut self, number: u64) -> Verdict {
        let Some(host) = self.net.host(number) else { return Ok(()) };
        let stopping = tokio::time::timeout(Duration::from_mins(5), host.engine.shutdown()).await;
        if host.dead.is_cancelled() {
            return Ok(());
        }
        self.oracle.power_lost(number, &host.engine.probe());
        self.net.unplug(number, host.run);
        match stopping {
            Err(_) => return Err(format!("device {number} does not stop within five minutes")),
            // It ended by itself before, with less in order than this.
            Ok(Err(_)) if self.devices.get(&number).is_some_and(|device| device.disk.was_full()) => {}
            Ok(Err(error)) => return Err(format!("device {number} does not stop: {}", chain(&error))),
            Ok(Ok(())) => {}
        }
        let off = self.chance.random_range(0..=self.plan.unit * 2);
        if let Some(device) = self.devices.get_mut(&number) {
            // Whoever still holds the files of this start must not write to the next one's.
            device.disk.unmount();
            device.wakes = Some(Instant::now() + Duration::from_millis(off));
        }
        Ok(())
    }

    /// A device that has power, by chance.
    pub fn any(&mut self) -> Option<u64> {
        let numbers: Vec<u64> = self.net.hosts().iter().map(|host| host.number).collect();
        numbers.choose(&mut self.chance).copied()
    }

    pub fn any_host(&mut self) -> Option<Host> {
        let number = self.any()?;
        self.net.host(number)
    }

    pub fn set_clock(&mut self, number: u64, millis: u64) {
        if let Some(device) = self.devices.get(&number) {
            device.wall.store(millis, Ordering::Relaxed);
        }
    }

    /// Begins to add a device, and asks until it is a member.
    pub fn join(&mut self) {
        self.changing = true;
        let number = self.new_device();
        let (net, tell) = (self.net.clone(), self.tell.clone());
        let mut chance = StdRng::seed_from_u64(stream(self.plan.seed, 5000 + number));
        let unit = self.plan.unit;
        tokio::spawn(async move {
            loop {
                if let Some(host) = net.hosts().choose(&mut chance) {
                    let added = host.dead.run_until_cancelled(host.engine.add_member(member(number))).await;
                    match added {
                        Some(Ok(id)) if !host.dead.is_cancelled() => {
                            return tell.send(News::Joined(number, id));
                        }
                        Some(Err(EngineError::Refused(_))) => return tell.send(News::NotJoined),
                        _ => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(unit)).await;
            }
        });
    }

    /// Begins to remove a device, and asks until it is none of the members.
    pub fn leave(&mut self, number: u64) {
        let Some(id) = self.devices.get(&number).map(|device| device.member_id) else { return };
        self.changing = true;
        let (net, tell) = (self.net.clone(), self.tell.clone());
        let mut chance = StdRng::seed_from_u64(stream(self.plan.seed, 9000 + number));
        let unit = self.plan.unit;
        tokio::spawn(async move {
            loop {
                if let Some(host) = net.hosts().choose(&mut chance) {
                    match host.dead.run_until_cancelled(host.engine.remove_member(id)).await {
                        Some(Ok(())) if !host.dead.is_cancelled() => return tell.send(News::Left(number)),
                        Some(Err(EngineError::Refused(_))) => return tell.send(News::NotLeft),
                        _ => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(unit)).await;
            }
        });
    }

    /// Lets time pass, and looks at everything in between.
    pub async fn live(&mut self, span: Duration) -> Verdict {
        let end = Instant::now() + span;
        loop {
            self.take_news().await?;
            if let Some(panic) = super::panicked() {
                return Err(format!("something {panic}"));
            }
            let now = Instant::now();
            let due = |device: &&Device| device.wakes.is_some_and(|wakes| wakes <= now);
            let awake: Vec<u64> = self.devices.values().filter(due).map(|device| device.number).collect();
            for number in awake {
                self.start(number).await?;
            }
            self.restart_the_full();
            let deep = self.oracle.looks.is_multiple_of(8);
            self.oracle.look(&self.net.hosts(), &self.book, deep).await?;
            if Instant::now() >= end {
                return Ok(());
            }
            let wakes = self.devices.values().filter_map(|device| device.wakes).min().unwrap_or(end);
            let step = Instant::now() + Duration::from_millis(self.plan.unit);
            tokio::time::sleep_until(step.min(end).min(wakes)).await;
        }
    }

    /// An engine that met the end of its disk stops, and is started again, as an agent would be.
    fn restart_the_full(&mut self) {
        for host in self.net.hosts() {
            let full = self.devices.get(&host.number).is_some_and(|device| device.disk.was_full());
            if full && host.engine.failure().is_some() {
                self.cut(host.number);
            }
        }
    }

    async fn take_news(&mut self) -> Verdict {
        while let Ok(news) = self.news.try_recv() {
            self.trace.note("news", format!("{news:?}"));
            match news {
                News::Dark { number, run, probe } => {
                    if self.devices.get(&number).is_some_and(|device| device.runs == run) {
                        probe.iter().for_each(|probe| self.oracle.power_lost(number, probe));
                        self.dark(number);
                    }
                }
                News::Joined(number, id) => {
                    self.changing = false;
                    self.place_device(number, id);
                    self.start(number).await?;
                }
                News::Left(number) => {
                    self.changing = false;
                    self.devices.remove(&number);
                    if let Some(host) = self.net.host(number) {
                        self.net.unplug(number, host.run);
                        bury(host.engine);
                    }
                }
                News::NotJoined | News::NotLeft => self.changing = false,
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more: everyone gets power and links, and the fleet must come together.
    async fn heal(&mut self) -> Verdict {
        self.trace.note("heal", ());
        self.net.heal();
        self.net.set_weather(Weather { loss: 0.0, repeat: 0.0, late: 0.0, ..self.plan.weather });
        for device in self.devices.values_mut() {
            device.disk.leave_room(None);
            device.disk.set_latency(self.plan.disk);
            device.disk.put_out_fuse();
            device.wakes = device.wakes.map(|_| Instant::now());
        }
        let limit = Duration::from_millis(self.plan.unit * 60) + Duration::from_mins(2);
        let end = Instant::now() + limit;
        loop {
            self.live(Duration::from_millis(self.plan.unit)).await?;
            for device in self.devices.values() {
                device.disk.put_out_fuse();
            }
            if !self.changing && self.together() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("healed, and not together within {limit:?}:\n{}", self.describe()));
            }
        }
    }

    /// Whether everyone follows one leader and has applied all of its log.
    fn together(&self) -> bool {
        let hosts = self.net.hosts();
        let probes: Vec<_> = hosts.iter().map(|host| host.engine.probe()).collect();
        let Some(leader) = probes.iter().find(|probe| probe.leads) else { return false };
        hosts.len() == self.devices.len()
            && probes.iter().filter(|probe| probe.leads).count() == 1
            && probes.iter().all(|probe| probe.applied.is_some() && probe.last_log == leader.last_log)
            && probes.iter().all(|probe| probe.vote == leader.vote)
    }

    pub fn describe(&self) -> String {
        let lines = self.devices.values().map(|device| match self.net.host(device.number) {
            Some(host) => {
                format!("  device {} (member {}): {:?}", device.number, device.member_id, host.engine.probe())
            }
            None => format!("  device {} (member {}): no power", device.number, device.member_id),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The last questions: a write through every device, all states equal, no acknowledged write lost.
    async fn conclude(mut self) -> Verdict<Report> {
        for host in self.net.hosts() {
            self.last_words(&host).await?;
        }
        let end = Instant::now() + Duration::from_millis(self.plan.unit * 20);
        while !self.together() {
            self.live(Duration::from_millis(self.plan.unit)).await?;
            if Instant::now() > end {
                return Err(format!("the last writes did not reach everyone:\n{}", self.describe()));
            }
        }
        self.oracle.look(&self.net.hosts(), &self.book, true).await?;
        self.oracle.all_read(&self.net.hosts())?;
        self.oracle.settle_debts(&self.book, true)?;
        for (number, calls) in self.book.histories(true) {
            check_history(number, &calls)?;
        }
        for host in self.net.hosts() {
            host.engine.shutdown().await.map_err(|error| format!("device {} does not stop: {error}", host.number))?;
        }
        let (trace, events) = self.trace.finish();
        Ok(Report {
            trace,
            events,
            simulated: Duration::from_millis(self.trace.millis()),
            processor: Duration::ZERO,
            cuts: self.cuts,
            starts: self.next_client - 1,
            messages: self.net.counts().0,
            entries: self.oracle.progress().1 as u64,
            tally: self.book.tally(),
        })
    }

    /// A write and a linearizable read through one device of a healthy fleet.
    async fn last_words(&self, host: &Host) -> Verdict {
        let mut answer = String::new();
        for _ in 0..LAST_TRIES {
            let write = Write::Put { key: client::key(u64::MAX), body: format!("from {}", host.number).into() };
            match host.engine.propose(Batch { checks: Vec::new(), writes: vec![write] }).await {
                Ok(Outcome::Applied { .. }) if host.engine.barrier().await == Freshness::Current => return Ok(()),
                other => answer = format!("{other:?}"),
            }
        }
        Err(format!("healed, and device {} can not write and read: {answer}\n{}", host.number, self.describe()))
    }
}

/// Ends what is left of a start that lost its power. Its disk and its wire are dead already.
fn bury(engine: Engine) {
    tokio::spawn(async move {
        let _ = engine.shutdown().await;
    });
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

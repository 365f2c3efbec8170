//! The simulated network: it carries the encoded bytes between engines, and loses, delays,
//! reorders, repeats and swallows them as the schedule says. All of it follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kith::consensus::Engine;
use kith::identity::{DeviceKey, Member};
use kith::transport::{Wire, WireError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::trace::{Trace, digest};

/// How messages fare on every link.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest and longest way of a message, in milliseconds.
    pub delay: (u64, u64),
    /// How often a message, or its answer, is lost.
    pub loss: f64,
    /// How often a request arrives twice.
    pub repeat: f64,
    /// How often a message is late by up to `late_by`, so that others overtake it.
    pub late: f64,
    /// In milliseconds.
    pub late_by: u64,
}

/// One start of a device, as the network and the clients see it.
#[derive(Clone)]
pub struct Host {
    pub engine: Engine,
    pub number: u64,
    /// Counts up with each start: what an earlier start still says goes nowhere.
    pub run: u64,
    /// Cancelled when this start loses its power.
    pub dead: CancellationToken,
}

/// The network of one fleet. Clones share it.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    chance: StdRng,
    hosts: BTreeMap<u64, Host>,
    weather: Weather,
    /// Links that swallow everything, in one direction.
    cut: BTreeSet<(u64, u64)>,
    /// Links that are slower, in milliseconds.
    slow: BTreeMap<(u64, u64), u64>,
    delivered: u64,
    bytes: u64,
}

/// What becomes of a message.
enum Fate {
    Refused(u64),
    Lost,
    Arrives(u64),
}

/// A device's number is in its key.
pub fn key(number: u64) -> DeviceKey {
    let mut key = [0x6b; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    DeviceKey(key)
}

fn number(key: DeviceKey) -> u64 {
    u64::from_be_bytes(key.0[..8].try_into().unwrap())
}

impl Net {
    pub fn new(seed: u64, weather: Weather, trace: Trace) -> Self {
        let state = State {
            chance: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            weather,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            delivered: 0,
            bytes: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The wire of one start of a device.
    pub fn wire(&self, number: u64, run: u64) -> Arc<dyn Wire> {
        Arc::new(SimWire { net: self.clone(), number, run })
    }

    pub fn plug_in(&self, host: Host) {
        self.state().hosts.insert(host.number, host);
    }

    /// Ends one start of a device: nothing that it says or is asked arrives any more.
    pub fn unplug(&self, number: u64, run: u64) -> Option<Host> {
        let host = {
            let mut state = self.state();
            let known = state.hosts.get(&number).is_some_and(|host| host.run == run);
            if known { state.hosts.remove(&number) } else { None }
        };
        if let Some(host) = &host {
            host.dead.cancel();
        }
        host
    }

    pub fn host(&self, number: u64) -> Option<Host> {
        self.state().hosts.get(&number).cloned()
    }

    pub fn hosts(&self) -> Vec<Host> {
        self.state().hosts.values().cloned().collect()
    }

    pub fn cut(&self, from: u64, to: u64) {
        self.state().cut.insert((from, to));
    }

    pub fn mend(&self, from: u64, to: u64) {
        self.state().cut.remove(&(from, to));
    }

    pub fn slow_down(&self, from: u64, to: u64, millis: u64) {
        self.state().slow.insert((from, to), millis);
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Every link works again, as well as the weather allows.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
    }

    /// Messages delivered, and their bytes.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.delivered, state.bytes)
    }

    fn fate(&self, from: u64, to: u64) -> Fate {
        let mut state = self.state();
        let weather = state.weather;
        let (shortest, longest) = weather.delay;
        let mut delay = state.chance.random_range(shortest..=longest);
        delay += state.slow.get(&(from, to)).copied().unwrap_or(0);
        if state.chance.random_bool(weather.late) {
            delay += state.chance.random_range(0..=weather.late_by);
        }
        if state.cut.contains(&(from, to)) || state.chance.random_bool(weather.loss) {
            return Fate::Lost;
        }
        if !state.hosts.contains_key(&to) && state.chance.random_bool(0.5) {
            return Fate::Refused(delay * 2);
        }
        Fate::Arrives(delay)
    }

    fn repeats(&self) -> bool {
        let mut state = self.state();
        let often = state.weather.repeat;
        state.chance.random_bool(often)
    }

    fn lives(&self, number: u64, run: u64) -> bool {
        self.state().hosts.get(&number).is_some_and(|host| host.run == run)
    }

    fn arrived(&self, what: &'static str, from: u64, to: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.delivered += 1;
        state.bytes += bytes.len() as u64;
        drop(state);
        self.trace.note(what, (from, to, bytes.len(), digest(bytes)));
    }

    /// Carries a request there and its answer back, if the weather lets it.
    async fn deliver(self, from: (u64, u64), to: u64, request: Vec<u8>, delay: u64, answer: mpsc::Sender<Vec<u8>>) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let Some(host) = self.host(to) else { return };
        self.arrived("ask", from.0, to, &request);
        let handled = host.dead.run_until_cancelled(host.engine.handle(key(from.0), request)).await;
        let Some(response) = handled else { return };
        let Fate::Arrives(delay) = self.fate(to, from.0) else { return };
        if !self.lives(to, host.run) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if self.lives(from.0, from.1) {
            self.arrived("answer", to, from.0, &response);
            // The second answer to a repeated request finds nobody.
            let _ = answer.try_send(response);
        }
    }
}

/// One start of a device at its end of the network.
struct SimWire {
    net: Net,
    number: u64,
    run: u64,
}

impl Wire for SimWire {
    fn call<'a>(
        &'a self,
        peer: &'a Member,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, WireError>> {
        Box::pin(async move {
            let name = || peer.name.clone();
            let to = number(peer.key);
            let unreachable = |reason: &str| WireError::Unreachable { peer: name(), reason: reason.into() };
            if !self.net.lives(self.number, self.run) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                return Err(unreachable("this device has no power"));
            }
            let (answer, mut answered) = mpsc::channel(1);
            match self.net.fate(self.number, to) {
                Fate::Refused(after) => {
                    tokio::time::sleep(Duration::from_millis(after).min(timeout)).await;
                    return Err(unreachable("nobody is there"));
                }
                Fate::Lost => {}
                Fate::Arrives(delay) => {
                    if self.net.repeats()
                        && let Fate::Arrives(again) = self.net.fate(self.number, to)
                    {
                        let net = self.net.clone();
                        let from = (self.number, self.run);
                        tokio::spawn(net.deliver(from, to, request.clone(), again, answer.clone()));
                    }
                    let from = (self.number, self.run);
                    tokio::spawn(self.net.clone().deliver(from, to, request, delay, answer.clone()));
                }
            }
            // A lost message is one that nobody answers; the sender must not end the wait.
            let waited = tokio::time::timeout(timeout, answered.recv()).await;
            drop(answer);
            match waited {
                Ok(Some(response)) => Ok(response),
                _ => Err(WireError::TimedOut { peer: name(), waited: timeout }),
            }
        })
    }
}

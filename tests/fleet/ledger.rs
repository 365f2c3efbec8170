//! Writers under faults: each remembers what was acknowledged to it, and in the end the fleet must
//! hold exactly that.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Fleet, name, wait_for};

pub const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The seed of a test: drawn, or given to play a run again. It is printed either way.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("KITH_SEED").ok().map(|text| text.parse().expect("KITH_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random);
    println!("seed {seed}; once more: KITH_SEED={seed} cargo nextest run --test fleet {test}");
    seed
}

/// One client that writes one thing after the other through changing devices.
pub struct Writer<'a> {
    fleet: &'a Fleet,
    lane: usize,
    devices: Vec<String>,
    rng: StdRng,
    /// Name -> uid of what it created.
    created: BTreeMap<String, String>,
    /// The last acknowledged value of its own counter.
    count: u64,
}

impl<'a> Writer<'a> {
    pub fn new(fleet: &'a Fleet, lane: usize, devices: &[&str], seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(lane as u64 + 1));
        let devices = devices.iter().map(ToString::to_string).collect();
        let mut writer = Self { fleet, lane, devices, rng, created: BTreeMap::new(), count: 0 };
        writer.create(&writer.counter());
        writer
    }

    fn counter(&self) -> String {
        format!("counter-{}", self.lane)
    }

    fn device(&mut self) -> String {
        let at = self.rng.random_range(0..self.devices.len());
        self.devices[at].clone()
    }

    pub fn written(&self) -> usize {
        self.created.len() + usize::try_from(self.count).unwrap()
    }

    /// A new object, a step of the counter, and a look at the counter through another device.
    pub fn step(&mut self) {
        self.create(&format!("w-{}-{}", self.lane, self.created.len()));
        self.bump();
        let device = self.device();
        self.look(&device);
    }

    /// Asks until it is acknowledged. A retry after a lost answer finds its own object.
    fn create(&mut self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "0"}});
        let uid = wait_for(&format!("an acknowledged write of {name}"), || {
            let device = self.device();
            let answer = self.fleet.request(&device, "POST", CONFIGMAPS, Some(&object)).ok()?;
            match answer.status {
                201 => Some(uid(&answer.body)),
                409 => self.read(&device, name).map(|found| uid(&found)),
                _ => None,
            }
        });
        self.created.insert(name.to_owned(), uid);
    }

    /// One step of the counter, on the condition that it is as this writer left it: a write that
    /// was repeated or came late would be refused, or be seen.
    fn bump(&mut self) {
        let (name, next) = (self.counter(), (self.count + 1).to_string());
        wait_for(&format!("an acknowledged step of {name}"), || {
            let device = self.device();
            let found = self.read(&device, &name)?;
            if found["data"]["v"] == next.as_str() {
                return Some(());
            }
            assert_eq!(found["data"]["v"], self.count.to_string(), "{name} through {device}");
            let version = &found["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "data": {"v": next}});
            let answer = self.fleet.request(&device, "PATCH", &format!("{CONFIGMAPS}/{name}"), Some(&patch)).ok()?;
            (answer.status == 200).then_some(())
        });
        self.count += 1;
    }

    /// What a device says when it says that it is current.
    fn read(&self, device: &str, name: &str) -> Option<Value> {
        let answer = self.fleet.request(device, "GET", &format!("{CONFIGMAPS}/{name}"), None).ok()?;
        (answer.status == 200 && answer.warnings.is_empty()).then_some(answer.body)
    }

    /// A read that does not say that it may be old holds the last acknowledged value.
    pub fn look(&self, device: &str) {
        if let Some(found) = self.read(device, &self.counter()) {
            assert_eq!(found["data"]["v"], self.count.to_string(), "a stale read of {} on {device}", self.counter());
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Everything that was acknowledged is on every device, once and as it was acknowledged, and all
/// devices hold the same.
pub fn settle(fleet: &Fleet, devices: &[&str], writers: &[Writer<'_>]) {
    fleet.wait_same_hash(devices);
    let expected: BTreeMap<&str, &str> = writers
        .iter()
        .flat_map(|writer| writer.created.iter().map(|(name, uid)| (name.as_str(), uid.as_str())))
        .collect();
    for device in devices {
        let list = fleet.get(device, CONFIGMAPS);
        let ours = |object: &&Value| name(object).starts_with("w-") || name(object).starts_with("counter-");
        let items: Vec<&Value> = list["items"].as_array().unwrap().iter().filter(ours).collect();
        let found: BTreeMap<&str, &str> =
            items.iter().map(|object| (name(object), object["metadata"]["uid"].as_str().unwrap())).collect();
        assert_eq!(items.len(), found.len(), "something is there twice on {device}");
        let lost: Vec<_> = expected.iter().filter(|(name, uid)| found.get(*name) != Some(uid)).collect();
        assert!(lost.is_empty(), "acknowledged and not there on {device}: {lost:?}");
        assert_eq!(found.len(), expected.len(), "on {device}");
        for writer in writers {
            writer.look(device);
        }
    }
    for device in devices {
        assert!(!fleet.agent_log(device).contains("panicked"), "{device} panicked");
    }
}

//! This device's node: what it tells the fleet about itself. It writes what the device knows
//! (size, addresses, images, labels) and leaves to the leader what only the leader can know (Ready).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::hardware::Hardware;
use crate::config::Config;
use crate::resource::Timestamp;

/// Everything that this device says of itself.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The device's name in the fleet.
    pub name: String,
    /// Its size and system.
    pub hardware: Hardware,
    /// Its addresses, best first.
    pub addresses: Vec<IpAddr>,
    /// Names and sizes of the images that it holds.
    pub images: Vec<(String, u64)>,
    /// How many of which devices pods can ask for, by resource.
    pub devices: BTreeMap<String, u64>,
    /// Whether it is short of memory, and of disk.
    pub pressure: [bool; 2],
}

/// The node as it should stand: `current` with this device's facts in it. Equal to `current` when
/// there is nothing to write.
pub fn node_object(current: Option<&Value>, facts: &NodeFacts, config: &Config, uid: &str, now: Timestamp) -> Value {
    let mut node = current.cloned().unwrap_or_else(|| {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": facts.name, "uid": uid, "creationTimestamp": now.to_string(), "generation": 1},
            "spec": {},
            "status": {},
        })
    });
    let labels = entry(entry(&mut node, "metadata"), "labels");
    for (key, value) in labels_of(facts, config) {
        labels.insert(key, Value::String(value));
    }
    let status = entry(&mut node, "status");
    for (key, value) in status_of(facts, config) {
        status.insert(key.to_owned(), value);
    }
    for (pressure, holds) in PRESSURES.iter().zip(facts.pressure) {
        pressure.tell(entry(&mut node, "status"), holds, now);
        pressure.taint(entry(&mut node, "spec"), holds);
    }
    node
}

/// What a device can be short of, with Kubernetes' words.
struct Shortage {
    condition: &'static str,
    taint: &'static str,
    /// Reason and message while it is not short, and while it is.
    says: [(&'static str, &'static str); 2],
}

const PRESSURES: [Shortage; 2] = [
    Shortage {
        condition: "MemoryPressure",
        taint: "node.kubernetes.io/memory-pressure",
        says: [
            ("KubeletHasSufficientMemory", "the device has sufficient memory available"),
            ("KubeletHasInsufficientMemory", "the device has insufficient memory available"),
        ],
    },
    Shortage {
        condition: "DiskPressure",
        taint: "node.kubernetes.io/disk-pressure",
        says: [
            ("KubeletHasNoDiskPressure", "the device has no disk pressure"),
            ("KubeletHasDiskPressure", "the device has disk pressure"),
        ],
    },
];

impl Shortage {
    /// The condition; its times move only with its status.
    fn tell(&self, status: &mut Map<String, Value>, holds: bool, now: Timestamp) {
        let conditions = list(status, "conditions");
        let says = if holds { "True" } else { "False" };
        let (reason, message) = self.says[usize::from(holds)];
        let known = conditions.iter_mut().find(|condition| condition["type"] == self.condition);
        if known.as_ref().is_some_and(|known| known["status"] == says) {
            return;
        }
        let fresh = json!({
            "type": self.condition, "status": says, "reason": reason, "message": message,
            "lastHeartbeatTime": now.to_string(), "lastTransitionTime": now.to_string(),
        });
        match known {
            Some(known) => *known = fresh,
            None => conditions.push(fresh),
        }
    }

    /// The taint by which the scheduler keeps away.
    fn taint(&self, spec: &mut Map<String, Value>, holds: bool) {
        let tainted = spec.get("taints").and_then(Value::as_array).into_iter().flatten();
        let has = tainted.into_iter().any(|taint| taint["key"] == self.taint);
        if has == holds {
            return;
        }
        let taints = list(spec, "taints");
        taints.retain(|taint| taint["key"] != self.taint);
        if holds {
            taints.push(json!({"key": self.taint, "effect": "NoSchedule"}));
        }
        if taints.is_empty() {
            spec.remove("taints");
        }
    }
}

/// The list under a key, made when it is missing or something else.
fn list<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let slot = parent.slot(key);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}

/// The object under a key, made when it is missing or something else.
fn entry<'a>(parent: &'a mut (impl Slot + ?Sized), key: &str) -> &'a mut Map<String, Value> {
    let slot = parent.slot(key);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

trait Slot {
    fn slot(&mut self, key: &str) -> &mut Value;
}

impl Slot for Value {
    fn slot(&mut self, key: &str) -> &mut Value {
        &mut self[key]
    }
}

impl Slot for Map<String, Value> {
    fn slot(&mut self, key: &str) -> &mut Value {
        self.entry(key).or_insert(Value::Null)
    }
}

fn labels_of(facts: &NodeFacts, config: &Config) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), facts.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), facts.hardware.architecture.to_owned()),
    ]);
    labels.extend(config.labels.clone());
    labels
}

fn status_of(facts: &NodeFacts, config: &Config) -> Vec<(&'static str, Value)> {
    let hardware = &facts.hardware;
    let size = |cpu_millis: u64, memory: u64| {
        let mut size = json!({
            "cpu": format!("{cpu_millis}m"),
            "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": format!("{}Ki", hardware.disk / 1024),
            "pods": config.max_pods.to_string(),
        });
        for (resource, count) in &facts.devices {
            size[resource] = json!(count.to_string());
        }
        size
    };
    let cpu = hardware.cpus * 1000;
    let mut addresses: Vec<Value> =
        facts.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": facts.name}));
    let images: Vec<Value> =
        facts.images.iter().map(|(name, bytes)| json!({"names": [name], "sizeBytes": bytes})).collect();
    vec![
        ("capacity", size(cpu, hardware.memory)),
        (
            "allocatable",
            size(cpu.saturating_sub(config.reserved_cpu), hardware.memory.saturating_sub(config.reserved_memory)),
        ),
        ("addresses", Value::Array(addresses)),
        ("images", Value::Array(images)),
        (
            "nodeInfo",
            json!({
                "architecture": hardware.architecture,
                "bootID": hardware.boot_id,
                "containerRuntimeVersion": format!("kith://{}", env!("CARGO_PKG_VERSION")),
                "kernelVersion": hardware.kernel,
                "kubeProxyVersion": "",
                "kubeletVersion": format!("v{}", env!("CARGO_PKG_VERSION")),
                "machineID": hardware.machine_id,
                "operatingSystem": "linux",
                "osImage": hardware.os,
                "systemUUID": hardware.machine_id,
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_node_keeps_what_others_wrote_and_is_stable() {
        let facts = NodeFacts {
            name: "d1".into(),
            hardware: Hardware::read(Path::new("/")),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            images: vec![("hello:1".into(), 5)],
            devices: [("kith.dev/ttyUSB".to_owned(), 2)].into(),
            pressure: [false, true],
        };
        let config = Config::default();
        let first = node_object(None, &facts, &config, "u1", Timestamp(0));
        let mut touched = first.clone();
        touched["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Ready", "status": "True"}));
        touched["spec"]["unschedulable"] = json!(true);
        let second = node_object(Some(&touched), &facts, &config, "u2", Timestamp(9));
        assert_eq!(second, touched);
        assert_eq!(first["metadata"]["labels"]["kubernetes.io/hostname"], "d1");
        assert_eq!(first["status"]["allocatable"]["kith.dev/ttyUSB"], "2");
        assert_eq!(first["status"]["conditions"][1]["status"], "True");
        assert_eq!(first["spec"]["taints"][0]["key"], "node.kubernetes.io/disk-pressure");
        // Once the shortage is over, nothing of it stays, and what others tainted does.
        touched["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": "own", "effect": "NoExecute"}));
        let well = NodeFacts { pressure: [false, false], devices: BTreeMap::new(), ..facts };
        let third = node_object(Some(&touched), &well, &config, "u2", Timestamp(9));
        assert_eq!(third["spec"]["taints"], json!([{"key": "own", "effect": "NoExecute"}]));
        assert_eq!(third["status"]["conditions"][1]["status"], "False");
        assert!(third["status"]["capacity"].get("kith.dev/ttyUSB").is_none());
    }
}

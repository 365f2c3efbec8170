mod deciding;
mod devices;
mod eviction;
mod hooks;
mod life;
mod properties;
mod pulls;
mod sandboxes;
mod security;
mod sequences;
mod specs;
mod volumes;

use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::container::{ContainerState, Exit, Namespace};
use super::sandbox::{ReadySandbox, SandboxState};
use super::*;
use crate::resource::ImageConfig;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// One device with one pod.
struct Bench {
    target: Target,
    observed: Observed,
    now: Timestamp,
}

fn web_pod(extra: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "default", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "hostNetwork": true, "restartPolicy": "Always", "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "web", "image": "web:1"}]}});
    merge(&mut pod, extra);
    pod
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

impl Bench {
    fn with(extra: &Value) -> Self {
        let pod: Pod = serde_json::from_value(web_pod(extra)).unwrap();
        let image = ImageConfig { entrypoint: vec!["/httpd".into()], ..ImageConfig::default() };
        let target = Target {
            node: NodeContext { name: "a".into(), ip: "10.0.0.1".into(), memory: 1 << 30 },
            pods: vec![TargetPod { pod, revision: 7 }],
            images: [("web:1".to_owned(), ImageState::Ready { config: image, id: "sha256:aa".into() })].into(),
            ..Target::default()
        };
        let sandboxes = vec![shelter(None)];
        Self { target, observed: Observed { sandboxes, ..Observed::default() }, now: NOW }
    }

    /// Executes what is decided about sandboxes, as far as it works.
    fn shelter(&mut self) -> &mut Self {
        for action in self.decide().actions {
            match action {
                Action::MakeSandbox { spec, .. } => {
                    let address = spec.own_network.then(|| "10.42.1.2".parse().unwrap());
                    self.observed.sandboxes = vec![shelter(address)];
                }
                Action::RemoveSandbox(_) => self.observed.sandboxes.clear(),
                _ => {}
            }
        }
        self
    }

    fn attempt(&mut self, attempt: u32, state: ContainerState) -> &mut Self {
        self.see("web", attempt, state)
    }

    /// What is seen of an attempt of a container from now on.
    fn see(&mut self, name: &str, attempt: u32, state: ContainerState) -> &mut Self {
        let reference = self.named(name, attempt);
        self.observed.containers.retain(|own| own.reference != reference);
        self.observed.containers.push(ObservedContainer {
            reference,
            image: "web:1".into(),
            state,
            devices: Vec::new(),
        });
        self
    }

    #[expect(clippy::unused_self, reason = "it reads as the bench's own")]
    fn named(&self, name: &str, attempt: u32) -> ContainerRef {
        ContainerRef { pod: web_ref(), container: name.into(), attempt }
    }

    fn runs(&mut self, name: &str, attempt: u32) -> &mut Self {
        let started = self.now;
        self.see(name, attempt, ContainerState::Running { started, pid: 9 })
    }

    fn ends(&mut self, name: &str, attempt: u32, code: i32) -> &mut Self {
        let now = self.now;
        let ended = Exit { started: Some(now), finished: now, ..exit(code, 0, 0) };
        self.see(name, attempt, ContainerState::Exited(ended))
    }

    fn pass(&mut self, seconds: u64) -> &mut Self {
        self.now = self.now.plus(std::time::Duration::from_secs(seconds));
        self
    }

    fn running(&mut self, attempt: u32) -> &mut Self {
        self.attempt(attempt, ContainerState::Running { started: NOW, pid: 9 })
    }

    fn exited(&mut self, attempt: u32, exit: Exit) -> &mut Self {
        self.attempt(attempt, ContainerState::Exited(exit))
    }

    fn decide(&self) -> Decision {
        let decision = diff(&self.target, &self.observed, self.now);
        assert_eq!(decision, diff(&self.target, &self.observed, self.now));
        decision
    }

    /// The decision in short words.
    fn words(&self) -> Vec<String> {
        self.decide().actions.iter().map(word).collect()
    }

    /// Takes the reported status as stored, as the store would.
    fn store(&mut self) -> PodStatus {
        let reported = self.decide().actions.into_iter().find_map(|action| match action {
            Action::Report { object, .. } => Some(*object),
            _ => None,
        });
        let stored: Pod = serde_json::from_slice(&serde_json::to_vec(&reported.expect("a report")).unwrap()).unwrap();
        self.target.pods[0].pod = stored.clone();
        stored.status.unwrap()
    }

    fn web(&mut self) -> ContainerStatus {
        self.store().container_statuses.unwrap().remove(0)
    }
}

fn web_ref() -> PodRef {
    PodRef { namespace: "default".into(), name: "web-1".into(), uid: "u1".into() }
}

/// The pod's sandbox, with an address of its own or the device's.
fn shelter(address: Option<std::net::IpAddr>) -> ObservedSandbox {
    let own = |name: &str| Namespace::At(format!("/run/kith/pods/u1/{name}").into());
    let ready = ReadySandbox {
        folder: "/run/kith/pods/u1".into(),
        hostname: if address.is_some() { "web-1".into() } else { "a".into() },
        network: if address.is_some() { own("net") } else { Namespace::Host },
        ipc: own("ipc"),
        uts: own("uts"),
        address,
        users: None,
    };
    ObservedSandbox { pod: web_ref(), state: SandboxState::Ready(ready) }
}

fn word(action: &Action) -> String {
    match action {
        Action::PrepareImage { image } => format!("prepare {image}"),
        Action::PullImage(pull) => format!("pull {} for {}", pull.image, pull.reference.id()),
        Action::MakeVolumes { volumes, .. } => {
            let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
            format!("make {}", names.join(" "))
        }
        Action::RemoveVolumes { uid } => format!("remove volumes of {uid}"),
        Action::MakeSandbox { spec, .. } => format!("shelter {}", spec.pod.name),
        Action::RemoveSandbox(pod) => format!("unshelter {}", pod.name),
        Action::Start(spec) => format!("start {}", spec.reference.id()),
        Action::Stop { reference, signal } => format!("{signal:?} {}", reference.id()),
        Action::Hook(hook) => format!("{:?} {}", hook.kind, hook.reference.id()),
        Action::Remove(reference) => format!("remove {}", reference.id()),
        Action::Report { pod, revision, .. } => format!("report {} at {revision}", pod.name),
        Action::DeletePod { pod, revision } => format!("delete {} at {revision}", pod.name),
        Action::Event(event) => format!("event {}", event.reason),
    }
}

fn exit(code: i32, started: u64, finished: u64) -> Exit {
    Exit {
        code,
        signal: None,
        oom_killed: false,
        started: Some(Timestamp(NOW.0 + started * 1000)),
        finished: Timestamp(NOW.0 + finished * 1000),
        message: String::new(),
    }
}

fn config_map(name: &str, pairs: &[(&str, &str)]) -> ((String, String), ConfigMap) {
    let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    (("default".into(), name.into()), ConfigMap { data: Some(data), ..ConfigMap::default() })
}

fn secret(name: &str, pairs: &[(&str, &str)]) -> ((String, String), SecretState) {
    let values = pairs.iter().map(|(key, value)| ((*key).to_owned(), volume::Bytes(value.as_bytes().to_vec())));
    (("default".into(), name.into()), SecretState::Open(values.collect()))
}

fn sealed(name: &str) -> ((String, String), SecretState) {
    (("default".into(), name.into()), SecretState::Sealed("no voter answers".into()))
}

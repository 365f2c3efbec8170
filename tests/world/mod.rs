//! A fleet without a clock: the store in memory, the leader's plans, devices that execute decisions
//! on containers that are only records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use kith::planner::{Fleet, Liveness, Rehearsal, plan};
use kith::reconciler::container::{
    ContainerRef, ContainerSpec, ContainerState, Exit, Namespace, ObservedContainer, StopSignal,
};
use kith::reconciler::sandbox::{ObservedSandbox, ReadySandbox, SandboxState};
use kith::reconciler::{Action, ImageState, NodeContext, Observed, PullFailure, PullState, Target, TargetPod, diff};
use kith::resource::{ImageConfig, Timestamp};
use kith::store::{Batch, Check, Key, Outcome, Precondition, Write};
use serde_json::{Value, json};

/// Rounds in which a fleet must come to rest.
const ROUNDS_LIMIT: usize = 200;

/// Runs a script and compares what it prints.
pub(crate) fn play(script: &str) {
    let mut world = World::new();
    let (mut actual, mut expected) = (String::new(), String::new());
    let mut told = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("| ") {
            writeln!(expected, "| {text}").unwrap();
            continue;
        }
        actual.push_str(&told);
        writeln!(actual, "{line}").unwrap();
        writeln!(expected, "{line}").unwrap();
        told = world.command(line).iter().fold(String::new(), |all, text| format!("{all}| {text}\n"));
    }
    actual.push_str(&told);
    assert!(actual == expected, "expected:\n{expected}\nactual:\n{actual}");
}

struct World {
    store: Rehearsal,
    devices: BTreeMap<String, Device>,
    now: Timestamp,
    leads_since: Timestamp,
    /// Workloads of which never more than one copy may run.
    single: BTreeSet<String>,
}

struct Device {
    connected: bool,
    heard: Option<Timestamp>,
    /// When it last spoke with a quorum, as it knows itself.
    spoke: Option<Timestamp>,
    stubborn: bool,
    images: BTreeSet<String>,
    pods: Vec<TargetPod>,
    observed: Observed,
    /// There is no registry in this world.
    pulls: BTreeMap<ContainerRef, PullState>,
}

impl World {
    fn new() -> Self {
        let now = Timestamp(1_800_000_000_000);
        let mut world = Self {
            store: Rehearsal::new(Fleet::default()),
            devices: BTreeMap::new(),
            now,
            leads_since: Timestamp(now.0 - 3_600_000),
            single: BTreeSet::new(),
        };
        world.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": "ns"}}));
        world
    }

    fn command(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["devices", names @ ..] => names.iter().for_each(|name| self.join(name)),
            ["deploy", name, size, options @ ..] => self.deploy(name, size.parse().unwrap(), options),
            ["scale", name, size] => {
                let size: u32 = size.parse().unwrap();
                self.edit(name, |object| object["spec"]["replicas"] = json!(size));
            }
            ["image", name, image] => {
                self.edit(name, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
            }
            ["delete", name] => {
                let key = Key::new("apps/Deployment", "default", *name);
                self.store.apply(&Batch { checks: vec![], writes: vec![Write::Delete { key }] });
            }
            ["cut", name] => self.device(name).connected = false,
            ["heal", name] => self.device(name).connected = true,
            ["remove", name] => drop(self.store.fleet.members.remove(*name)),
            ["reboot", name] => {
                let device = self.device(name);
                (device.observed, device.spoke) = (Observed::default(), None);
            }
            ["forget", name] => {
                let observed = &mut self.device(name).observed;
                let Observed { containers, sandboxes, .. } = std::mem::take(observed);
                *observed = Observed { containers, sandboxes, ..Observed::default() };
            }
            ["stubborn", name] => self.device(name).stubborn = true,
            ["import", name, image] => drop(self.device(name).images.insert((*image).to_owned())),
            ["crash", name] => self.crash(name),
            ["end", name, container, code] => self.end(name, container, code.parse().unwrap()),
            ["ready", name, container] => self.probe(name, container, true),
            ["unready", name, container] => self.probe(name, container, false),
            ["lead"] => self.lead(),
            ["pass", span] => self.pass(span),
            ["show"] => return self.show(None),
            ["show", name] => return self.show(Some(name)),
            ["state"] => return self.state(),
            ["images"] => return self.images(),
            ["why"] => return self.why(),
            other => panic!("unknown command {other:?}"),
        }
        self.rest();
        Vec::new()
    }

    fn device(&mut self, name: &str) -> &mut Device {
        self.devices.get_mut(name).unwrap()
    }

    fn join(&mut self, name: &str) {
        self.store.fleet.members.insert(name.to_owned());
        let images = ["web:1", "web:2"].map(str::to_owned).into();
        let device = Device {
            connected: true,
            heard: None,
            spoke: None,
            stubborn: false,
            images,
            pods: Vec::new(),
            observed: Observed::default(),
            pulls: BTreeMap::new(),
        };
        self.devices.insert(name.to_owned(), device);
        self.put(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": format!("node-{name}")},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}),
        );
    }

    fn deploy(&mut self, name: &str, size: u32, options: &[&str]) {
        let mut container = json!({"name": name, "image": "web:1"});
        let mut init = Vec::new();
        let mut grace = 30;
        let mut annotations = json!(null);
        let mut strategy = json!(null);
        for option in options {
            match option.split_once('=').unwrap() {
                ("image", image) => container["image"] = json!(image),
                ("port", port) => container["ports"] = json!([{"containerPort": port.parse::<u16>().unwrap()}]),
                ("grace", seconds) => grace = seconds.parse().unwrap(),
                ("init", name) => init.push(json!({"name": name, "image": "web:1"})),
                ("side", name) => init.push(json!({"name": name, "image": "web:1", "restartPolicy": "Always"})),
                ("lost-after", span) => annotations["kith.dev/lost-after"] = json!(span),
                ("stop-after", span) => {
                    annotations["kith.dev/on-partition"] = json!(format!("stop-after={span}"));
                    strategy = json!({"type": "Recreate"});
                    self.single.insert((*name).to_owned());
                }
                ("probe", "ready") => container["readinessProbe"] = json!({"tcpSocket": {"port": 80}}),
                other => panic!("unknown option {other:?}"),
            }
        }
        self.put(&json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default", "uid": format!("deployment-{name}"), "generation": 1},
            "spec": {"replicas": size, "strategy": strategy, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}, "annotations": annotations},
                    "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": grace,
                        "initContainers": init, "containers": [container]}}}}));
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let key = Key::new("apps/Deployment", "default", name);
        let mut object = serde_json::to_value(&self.store.fleet.deployments[&key].object).unwrap();
        change(&mut object);
        self.put(&object);
    }

    fn put(&mut self, object: &Value) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = text("/apiVersion").split_once('/').map(|(group, _)| format!("{group}/")).unwrap_or_default();
        let key = Key::new(format!("{group}{}", text("/kind")), text("/metadata/namespace"), text("/metadata/name"));
        let body = serde_json::to_vec(object).unwrap();
        self.store.apply(&Batch { checks: vec![], writes: vec![Write::Put { key: key.clone(), body }] });
        assert!(!self.store.fleet.unreadable.contains(&key), "{object}");
    }

    fn crash(&mut self, name: &str) {
        let now = self.now;
        for container in &mut self.device(name).observed.containers {
            exit(container, 1, now);
        }
    }

    fn end(&mut self, name: &str, container: &str, code: i32) {
        let now = self.now;
        let all = &mut self.device(name).observed.containers;
        all.iter_mut().filter(|own| own.reference.container == container).for_each(|own| exit(own, code, now));
    }

    /// What the readiness probes of these containers find from now on.
    fn probe(&mut self, name: &str, container: &str, ready: bool) {
        let observed = &mut self.device(name).observed;
        for own in observed.containers.iter().filter(|own| own.reference.container == container) {
            observed.health.entry(own.reference.clone()).or_default().ready = Some(ready);
        }
    }

    /// Another leader, that has heard only of the devices that it reaches.
    fn lead(&mut self) {
        self.leads_since = self.now;
        for device in self.devices.values_mut().filter(|device| !device.connected) {
            device.heard = None;
        }
    }

    /// Lets time pass, stopping at every moment that somebody asked to be woken at.
    fn pass(&mut self, span: &str) {
        let (number, unit) = span.split_at(span.len() - 1);
        let seconds = number.parse::<u64>().unwrap()
            * match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => panic!("{span}"),
            };
        let end = self.now.plus(Duration::from_secs(seconds));
        while self.now < end {
            let wake = self.rest();
            self.now = wake.filter(|at| *at > self.now).map_or(end, |at| at.min(end));
        }
    }

    /// Plans and executes until nothing changes any more; returns the next moment to come again.
    fn rest(&mut self) -> Option<Timestamp> {
        for _ in 0..ROUNDS_LIMIT {
            self.listen();
            let planned = plan(&self.store.fleet, self.now);
            let applied = planned
                .batches
                .iter()
                .filter(|step| matches!(self.store.apply(&step.batch), Outcome::Applied { .. }))
                .count();
            let (acted, wake) = self.devices_act();
            if applied == 0 && !acted {
                return [planned.wake_at, wake].into_iter().flatten().min();
            }
        }
        panic!("the fleet does not come to rest: {:#?}", plan(&self.store.fleet, self.now));
    }

    /// Connections: devices hear the store, the leader hears the devices.
    fn listen(&mut self) {
        self.store.fleet.leader_for = self.now.since(self.leads_since);
        for (name, device) in &mut self.devices {
            if device.connected {
                device.heard = Some(self.now);
                device.spoke = Some(self.now);
                let bound =
                    self.store.fleet.pods.values().filter(|pod| {
                        pod.object.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name)
                    });
                device.pods = bound.map(|pod| TargetPod { pod: pod.object.clone(), revision: pod.revision }).collect();
            }
            match device.heard {
                Some(at) => {
                    let liveness = Liveness { silent_for: self.now.since(at), asked_for: Some(self.now.since(at)) };
                    self.store.fleet.liveness.insert(name.clone(), liveness);
                }
                None => drop(self.store.fleet.liveness.remove(name)),
            }
        }
    }

    fn devices_act(&mut self) -> (bool, Option<Timestamp>) {
        let (mut acted, mut wake) = (false, None);
        for (name, device) in &mut self.devices {
            let target = device.target(name, self.now);
            let decision = diff(&target, &device.observed, self.now);
            assert_eq!(decision, diff(&target, &device.observed, self.now), "the same question, another answer");
            wake = [wake, decision.wake_at].into_iter().flatten().min();
            device.observed.ending.retain(|uid, _| decision.ending.contains(uid));
            for uid in decision.ending {
                device.observed.ending.entry(uid).or_insert(self.now);
            }
            device.observed.apart = decision.apart;
            for action in decision.actions {
                acted |= device.execute(&mut self.store, action, self.now);
            }
        }
        for name in &self.single {
            let all = self.devices.values().flat_map(|device| &device.observed.containers);
            let running = all.filter(|own| is_running(own) && own.reference.container == *name).count();
            assert!(running <= 1, "{running} copies of {name} run at once");
        }
        (acted, wake)
    }

    /// What runs: a container's name, `#` and its attempt when it was restarted.
    fn show(&mut self, only: Option<&str>) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, device) in self.devices.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str())) {
            let running = device.observed.containers.iter().filter(|container| is_running(container));
            let mut names: Vec<String> = running
                .map(|container| match container.reference.attempt {
                    0 => container.reference.container.clone(),
                    attempt => format!("{}#{attempt}", container.reference.container),
                })
                .collect();
            names.sort();
            lines.push(format!("{name}: {}", if names.is_empty() { "-".to_owned() } else { names.join(" ") }));
        }
        if only.is_none() {
            let pods = &self.store.fleet.pods;
            let ready = |pod: &k8s_openapi::api::core::v1::Pod| {
                let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            };
            let count = pods.values().filter(|pod| ready(&pod.object)).count();
            lines.push(format!("pods {}, ready {count}", pods.len()));
        }
        lines
    }

    fn state(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, pod) in &self.store.fleet.pods {
            let status = pod.object.status.clone().unwrap_or_default();
            let mut line = format!("{}: {}", starred(&key.name), status.phase.unwrap_or_default());
            let init = status.init_container_statuses.unwrap_or_default();
            for container in init.into_iter().chain(status.container_statuses.unwrap_or_default()) {
                let state = container.state.unwrap_or_default();
                let word = match (state.waiting, state.running, state.terminated) {
                    (Some(waiting), ..) => format!("waiting {}", waiting.reason.unwrap_or_default()),
                    (_, Some(_), _) => "running".into(),
                    (.., Some(ended)) => format!("ended {}", ended.exit_code),
                    _ => "?".into(),
                };
                write!(line, ", {} {word} {}", container.name, container.restart_count).unwrap();
                if let Some(last) = container.last_state.and_then(|last| last.terminated) {
                    write!(line, ", last {} {}", last.reason.unwrap_or_default(), last.exit_code).unwrap();
                }
            }
            lines.push(line);
        }
        lines
    }

    fn images(&self) -> Vec<String> {
        let all = self.devices.values().flat_map(|device| &device.observed.containers);
        vec![
            all.filter(|container| is_running(container))
                .map(|container| container.image.clone())
                .collect::<Vec<_>>()
                .join(" "),
        ]
    }

    fn why(&self) -> Vec<String> {
        let notes = plan(&self.store.fleet, self.now).report;
        notes.iter().map(|note| format!("{}: {}", starred(&note.object.to_string()), note.text)).collect()
    }
}

/// A generated name without what was generated.
fn starred(name: &str) -> String {
    let mut parts = name.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(stem)) => format!("{stem}-*"),
        _ => name.to_owned(),
    }
}

fn is_running(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

fn exit(container: &mut ObservedContainer, code: i32, now: Timestamp) {
    if let ContainerState::Running { started, .. } = container.state {
        let signal = (code > 128).then(|| code - 128);
        let exit =
            Exit { code, signal, oom_killed: false, started: Some(started), finished: now, message: String::new() };
        container.state = ContainerState::Exited(exit);
    }
}

impl Device {
    fn target(&self, name: &str, now: Timestamp) -> Target {
        let named = self.pods.iter().flat_map(|pod| kith::reconciler::images_needed(&pod.pod));
        let images = named.map(|image| {
            let config = ImageConfig { entrypoint: vec!["/httpd".into()], ..ImageConfig::default() };
            let here = self.images.contains(&image);
            let state = if here { ImageState::Ready { config, id: "sha256:00".into() } } else { ImageState::Absent };
            (image, state)
        });
        Target {
            node: NodeContext { name: name.to_owned(), ip: "10.0.0.1".into(), memory: 1 << 30 },
            images: images.collect(),
            pods: self.pods.clone(),
            pulls: self.pulls.clone(),
            apart_for: self.spoke.map(|at| now.since(at)),
            ..Target::default()
        }
    }

    /// Does what was decided. Returns whether anything changed.
    fn execute(&mut self, store: &mut Rehearsal, action: Action, now: Timestamp) -> bool {
        let observed = &mut self.observed;
        let mut write =
            |pod: kith::reconciler::container::PodRef, revision, write: fn(Key) -> Write, body: Option<Vec<u8>>| {
                let key = Key::new("Pod", pod.namespace, pod.name);
                let checks = vec![Check { key: key.clone(), expect: Precondition::AtRevision(revision) }];
                let write = body.map_or_else(|| write(key.clone()), |body| Write::Put { key: key.clone(), body });
                self.connected && matches!(store.apply(&Batch { checks, writes: vec![write] }), Outcome::Applied { .. })
            };
        match action {
            Action::Start(spec) => {
                start(observed, *spec, now);
                true
            }
            Action::Stop { reference, signal } => {
                observed.asked.entry(reference.clone()).or_insert(now);
                let found = observed.containers.iter_mut().find(|own| own.reference == reference).unwrap();
                match signal {
                    StopSignal::Ask if self.stubborn => {}
                    StopSignal::Ask => exit(found, 143, now),
                    StopSignal::Kill => exit(found, 137, now),
                }
                true
            }
            Action::Remove(reference) => {
                observed.asked.remove(&reference);
                let before = observed.containers.len();
                observed.containers.retain(|own| own.reference != reference);
                assert_eq!(observed.containers.len() + 1, before, "removed twice: {reference:?}");
                true
            }
            Action::MakeVolumes { pod, volumes } => {
                let made = observed.volumes.entry(pod.uid).or_default();
                made.extend(volumes.into_iter().map(|volume| (volume.name, volume.version)));
                true
            }
            Action::RemoveVolumes { uid } => {
                assert!(observed.volumes.remove(&uid).is_some(), "removed twice: {uid}");
                true
            }
            Action::Report { pod, revision, object } => {
                let body = serde_json::to_vec(&object).unwrap();
                write(pod, revision, |key| Write::Delete { key }, Some(body))
            }
            Action::DeletePod { pod, revision } => write(pod, revision, |key| Write::Delete { key }, None),
            Action::PullImage(pull) => {
                let message = "there is no registry".to_owned();
                let failure = PullFailure { message, unreachable: true, attempts: 1, at: now, jitter: 0 };
                self.pulls.insert(pull.reference, PullState::Failed(failure)).is_none()
            }
            Action::MakeSandbox { spec, .. } => {
                assert!(!observed.sandboxes.iter().any(|own| own.pod == spec.pod), "made twice: {spec:?}");
                let ready = ReadySandbox {
                    folder: "/run/kith/pods".into(),
                    hostname: spec.hostname,
                    address: None,
                    network: Namespace::Host,
                    ipc: Namespace::Own,
                    uts: Namespace::Own,
                    users: None,
                };
                observed.sandboxes.push(ObservedSandbox { pod: spec.pod, state: SandboxState::Ready(ready) });
                true
            }
            Action::RemoveSandbox(pod) => {
                let users = observed.containers.iter().filter(|own| own.reference.pod == pod);
                assert!(!users.into_iter().any(is_running), "taken from under its containers: {pod:?}");
                observed.sandboxes.retain(|own| own.pod != pod);
                true
            }
            Action::PrepareImage { .. } | Action::Event(_) | Action::Hook(_) => false,
        }
    }
}

/// One more container runs.
fn start(observed: &mut Observed, spec: ContainerSpec, now: Timestamp) {
    let ContainerSpec { reference, image, .. } = spec;
    assert!(!observed.containers.iter().any(|own| own.reference == reference), "started twice: {reference:?}");
    let mut own = observed.containers.iter().filter(|own| own.reference.pod == reference.pod);
    let twin = own.any(|own| own.reference.container == reference.container && is_running(own));
    assert!(!twin, "two attempts at once: {reference:?}");
    let state = ContainerState::Running { started: now, pid: 1 };
    observed.containers.push(ObservedContainer { reference, image, state, devices: Vec::new() });
}

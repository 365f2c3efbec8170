use super::super::container::{Below, Propagation};
use super::volume::{HostKind, HostPath, Places, VolumeKind};
use super::*;

/// A pod with these volumes, seen by its container as said.
fn bench(volumes: &Value, mounts: &Value) -> Bench {
    let mut bench = Bench::with(&json!({"metadata": {"labels": {"app": "web"}, "annotations": {"a": "x\"y"}},
        "spec": {"volumes": volumes, "securityContext": {"fsGroup": 7},
            "containers": [{"name": "web", "image": "web:1", "volumeMounts": mounts,
                "resources": {"limits": {"memory": "64Mi"}}}]}}));
    bench.target.places = Places {
        pods: "/data/pods".into(),
        claims: "/data/volumes".into(),
        host_paths: vec![
            HostPath { path: "/srv".into(), read_only: false },
            HostPath { path: "/etc/localtime".into(), read_only: true },
        ],
    };
    bench
}

impl Bench {
    fn made(&self) -> Vec<VolumeSpec> {
        let made = self.decide().actions.into_iter().find_map(|action| match action {
            Action::MakeVolumes { volumes, .. } => Some(volumes),
            _ => None,
        });
        made.unwrap_or_default()
    }

    /// Observes what was decided to be made.
    fn make(&mut self) -> &mut Self {
        let made = self.made();
        let known = self.observed.volumes.entry("u1".into()).or_default();
        known.extend(made.into_iter().map(|volume| (volume.name, volume.version)));
        self
    }

    fn started(&self) -> Option<ContainerSpec> {
        self.decide().actions.into_iter().find_map(|action| match action {
            Action::Start(spec) => Some(*spec),
            _ => None,
        })
    }
}

fn files(volume: &VolumeSpec) -> Vec<(String, u32, String)> {
    let VolumeKind::Files { files, .. } = &volume.kind else { panic!("{volume:?}") };
    let text = |file: &volume::VolumeFile| String::from_utf8(file.content.0.clone()).unwrap();
    files.iter().map(|file| (file.path.clone(), file.mode, text(file))).collect()
}

fn waits(bench: &mut Bench) -> String {
    let waiting = bench.web().state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    waiting.message.unwrap_or_default()
}

#[test]
fn volumes_come_before_the_first_container_and_go_after_the_last() {
    let mut bench = bench(&json!([{"name": "v", "emptyDir": {}}]), &json!([{"name": "v", "mountPath": "/v"}]));
    assert_eq!(bench.words(), ["make v"]);
    bench.make();
    assert_eq!(bench.words(), ["start u1-web-0"]);
    let mounts = bench.started().unwrap().mounts;
    assert_eq!(mounts[0].source, std::path::Path::new("/data/pods/u1/volumes/v"));
    assert_eq!((mounts[0].read_only, mounts[0].propagation), (false, Propagation::Private));
    bench.running(0);
    bench.store();
    assert!(bench.words().is_empty());
    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(NOW.to_kubernetes());
    bench.observed.containers.clear();
    assert_eq!(bench.words(), ["unshelter web-1", "remove volumes of u1"]);
    bench.observed.sandboxes.clear();
    assert_eq!(bench.words(), ["remove volumes of u1"]);
    bench.observed.volumes.clear();
    assert_eq!(bench.words(), ["delete web-1 at 7"]);
}

#[test]
fn volumes_of_nobody_are_removed_once_nothing_runs_in_them() {
    let mut bench = bench(&json!([]), &json!([]));
    bench.target.pods.clear();
    bench.observed.sandboxes.clear();
    bench.observed.volumes.insert("u1".into(), BTreeMap::new());
    bench.running(0);
    assert!(!bench.words().contains(&"remove volumes of u1".to_owned()));
    bench.observed.containers.clear();
    assert_eq!(bench.words(), ["remove volumes of u1"]);
}

#[test]
fn a_finished_pod_keeps_no_volumes() {
    let mut bench = bench(&json!([{"name": "v", "emptyDir": {}}]), &json!([]));
    bench.target.pods[0].pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() });
    bench.observed.volumes.insert("u1".into(), BTreeMap::new());
    bench.exited(0, exit(0, 0, 1));
    assert_eq!(bench.words(), ["remove volumes of u1", "unshelter web-1"]);
}

#[test]
fn every_kind_is_made_as_the_pod_says() {
    let mut bench = bench(
        &json!([{"name": "disk", "emptyDir": {}}, {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": "/srv/a/b", "type": "DirectoryOrCreate"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "db"}}]),
        &json!([]),
    );
    bench.target.claims.insert(("default".into(), "db".into()), Some("a".into()));
    let made = bench.made();
    let kinds: Vec<&VolumeKind> = made.iter().map(|volume| &volume.kind).collect();
    assert_eq!(kinds[0], &VolumeKind::Disk);
    assert_eq!(kinds[1], &VolumeKind::Memory { size: Some(1 << 20) });
    let host = VolumeKind::Host { root: "/srv".into(), path: "a/b".into(), kind: HostKind::FolderOrCreate };
    assert_eq!(kinds[2], &host);
    assert_eq!(kinds[3], &VolumeKind::Claim { namespace: "default".into(), name: "db".into() });
    let groups: Vec<Option<u32>> = made.iter().map(|volume| volume.group.map(|group| group.id)).collect();
    assert_eq!(groups, [Some(7), Some(7), None, Some(7)]);
}

#[test]
fn files_come_from_config_maps_secrets_and_the_pod() {
    let mut bench = bench(
        &json!([{"name": "map", "configMap": {"name": "c", "defaultMode": 256, "items": [
                {"key": "k", "path": "deep/k"}, {"key": "l", "path": "l", "mode": 511}]}},
            {"name": "all", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s",
                "items": [{"key": "l", "path": "l"}]}}, {"secret": {"name": "none", "optional": true}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "notes", "fieldRef": {"fieldPath": "metadata.annotations"}},
                    {"path": "memory", "resourceFieldRef": {"containerName": "web", "resource": "limits.memory",
                        "divisor": "1Mi"}}]}}]}}]),
        &json!([{"name": "map", "mountPath": "/b"}, {"name": "map", "mountPath": "/a", "subPath": "deep/k"}]),
    );
    bench.target.configmaps.extend([config_map("c", &[("k", "1"), ("l", "2")])]);
    bench.target.secrets.extend([secret("s", &[("l", "hidden")])]);
    let made = bench.made();
    assert_eq!(files(&made[0]), [("deep/k".into(), 0o400, "1".into()), ("l".into(), 0o777, "2".into())]);
    let expected =
        [("k", "1"), ("l", "hidden"), ("labels", "app=\"web\""), ("memory", "64"), ("notes", "a=\"x\\\"y\"")];
    let expected: Vec<_> = expected.map(|(path, text)| (path.to_owned(), 0o644, text.to_owned())).into();
    assert_eq!(files(&made[1]), expected);
    assert!(matches!(made[1].kind, VolumeKind::Files { memory: true, .. }), "a secret is on the disk");
    bench.make();
    let mounts = bench.started().unwrap().mounts;
    assert!(mounts.iter().all(|mount| mount.read_only));
    assert_eq!(mounts[0].below, [Below { path: "deep/k".into(), make: false }]);
    assert_eq!(mounts[1].source, std::path::Path::new("/data/pods/u1/files/map"));
    // A change is filled in while the container runs, and only there.
    bench.running(0);
    bench.store();
    assert!(bench.words().is_empty());
    bench.target.configmaps.extend([config_map("c", &[("k", "9"), ("l", "2")])]);
    assert_eq!(bench.words(), ["make map all"]);
    bench.make();
    assert!(bench.words().is_empty());
    // What was taken away from it leaves what it has.
    bench.target.configmaps.clear();
    assert!(bench.words().is_empty());
}

#[test]
fn what_a_volume_lacks_is_named_in_the_status_and_once_in_an_event() {
    for (volume, why) in [
        (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
        (json!({"secret": {"secretName": "none"}}), "secret \"none\" not found"),
        (json!({"secret": {"secretName": "far"}}), "no voter answers"),
        (
            json!({"configMap": {"name": "c", "items": [{"key": "z", "path": "z"}]}}),
            "configmap \"c\" references non-existent config key: z",
        ),
        (json!({"hostPath": {"path": "/etc/shadow"}}), "add it to host_paths in its agent.toml"),
        (json!({"hostPath": {"path": "/srvx"}}), "is not allowed"),
        (json!({"persistentVolumeClaim": {"claimName": "db"}}), "persistentvolumeclaim \"db\" not found"),
        (json!({"persistentVolumeClaim": {"claimName": "other"}}), "is on device b"),
        (json!({"persistentVolumeClaim": {"claimName": "new"}}), "not bound to a device yet"),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let mut bench = bench(&json!([volume]), &json!([]));
        bench.target.configmaps.extend([config_map("c", &[("k", "1")])]);
        bench.target.secrets.extend([sealed("far")]);
        bench.target.claims.insert(("default".into(), "other".into()), Some("b".into()));
        bench.target.claims.insert(("default".into(), "new".into()), None);
        assert_eq!(bench.words(), ["report web-1 at 7", "event FailedMount"], "{volume}");
        let message = waits(&mut bench);
        assert!(message.starts_with("MountVolume.SetUp failed for volume \"v\" : "), "{message}");
        assert!(message.contains(why), "{message}");
        assert!(bench.words().is_empty(), "{volume}");
    }
}

#[test]
fn a_volume_that_could_not_be_made_is_tried_again_and_told() {
    let mut bench = bench(&json!([{"name": "v", "emptyDir": {}}]), &json!([]));
    let why = failed_mount("v", "No space left on device");
    bench.observed.volume_failures.insert("u1".into(), why.clone());
    assert_eq!(bench.words(), ["make v", "report web-1 at 7", "event FailedMount"]);
    assert_eq!(waits(&mut bench), why);
    assert_eq!(bench.words(), ["make v"]);
}

#[test]
fn mounts_are_what_a_container_may_have() {
    let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "time", "hostPath": {"path": "/etc/localtime"}},
        {"name": "srv", "hostPath": {"path": "/srv/a"}},
        {"name": "db", "persistentVolumeClaim": {"claimName": "db", "readOnly": true}}]);
    let started = |mounts: Value| {
        let mut bench = bench(&volumes, &mounts);
        bench.target.claims.insert(("default".into(), "db".into()), Some("a".into()));
        let mut pod = serde_json::to_value(&bench.target.pods[0].pod).unwrap();
        pod["spec"]["containers"][0]["env"] = json!([{"name": "WHO", "value": "me"}]);
        bench.target.pods[0].pod = serde_json::from_value(pod).unwrap();
        bench.make();
        bench.started().ok_or_else(|| bench.web().state.unwrap().waiting.unwrap())
    };
    let spec = started(json!([
        {"name": "v", "mountPath": "/a/b", "subPathExpr": "of/$(WHO)", "mountPropagation": "HostToContainer"},
        {"name": "v", "mountPath": "/a"}, {"name": "time", "mountPath": "/etc/localtime", "readOnly": true},
        {"name": "srv", "mountPath": "/srv", "subPath": "x"}, {"name": "db", "mountPath": "/db"}]))
    .unwrap();
    let places: Vec<&str> = spec.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(places, ["/a", "/a/b", "/db", "/etc/localtime", "/srv"]);
    assert_eq!(spec.mounts[1].below, [Below { path: "of/me".into(), make: true }]);
    assert_eq!(spec.mounts[1].propagation, Propagation::FromHost);
    assert_eq!(spec.mounts[2].source, std::path::Path::new("/data/volumes/default/db"));
    assert!(spec.mounts[2].read_only && spec.mounts[3].read_only);
    let below = |path: &str, make| Below { path: path.into(), make };
    assert_eq!(spec.mounts[4].below, [below("a", false), below("x", true)]);
    for (mount, why) in [
        (json!({"name": "time", "mountPath": "/t"}), "set readOnly on the mount"),
        (json!({"name": "v", "mountPath": "/t", "subPath": "../x"}), "without .."),
        (json!({"name": "v", "mountPath": "/t", "subPathExpr": "$(NONE)"}), "names a variable"),
        (json!({"name": "none", "mountPath": "/t"}), "no volume of this name"),
    ] {
        let waiting = started(json!([mount])).unwrap_err();
        assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
        assert!(waiting.message.as_deref().unwrap().contains(why), "{waiting:?}");
    }
}

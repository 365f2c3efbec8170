//! What Kubernetes fills in when a manifest leaves it out. It only adds, never changes what is set.

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::meta;

/// The seconds a pod gets to stop when its manifest says nothing.
pub const TERMINATION_GRACE_SECONDS: i64 = 30;

/// Fills in the defaults of a kind.
pub fn apply(kind: &Kind, object: &mut Value) {
    match kind.kind {
        "Namespace" => {
            let name = meta::name(object).to_owned();
            if let Some(labels) = child(object, "metadata").and_then(|meta| child(meta, "labels")) {
                absent(labels, "kubernetes.io/metadata.name", || json!(name));
            }
        }
        "Pod" => {
            if let Some(spec) = child(object, "spec") {
                pod_spec(spec);
            }
        }
        "Secret" => super::volume::secret_defaults(object),
        "PriorityClass" => {
            if let Some(class) = object.as_object_mut() {
                absent(class, "preemptionPolicy", || json!("PreemptLowerPriority"));
            }
        }
        "PersistentVolumeClaim" => {
            if let Some(spec) = child(object, "spec") {
                absent(spec, "volumeMode", || json!("Filesystem"));
            }
        }
        "Deployment" => deployment(object),
        "ReplicaSet" => {
            if let Some(spec) = child(object, "spec") {
                absent(spec, "replicas", || json!(1));
                template(spec);
            }
        }
        _ => {}
    }
}

fn deployment(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    absent(spec, "replicas", || json!(1));
    absent(spec, "revisionHistoryLimit", || json!(10));
    absent(spec, "progressDeadlineSeconds", || json!(600));
    if let Some(strategy) = child(spec, "strategy") {
        absent(strategy, "type", || json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate"))
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            absent(rolling, "maxSurge", || json!("25%"));
            absent(rolling, "maxUnavailable", || json!("25%"));
        }
    }
    template(spec);
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(inner) = spec.get_mut("template").and_then(|template| child(template, "spec")) {
        pod_spec(inner);
    }
}

/// The defaults of a pod's spec, in a pod or in a template.
fn pod_spec(spec: &mut Map<String, Value>) {
    absent(spec, "restartPolicy", || json!("Always"));
    absent(spec, "terminationGracePeriodSeconds", || json!(TERMINATION_GRACE_SECONDS));
    absent(spec, "dnsPolicy", || json!("ClusterFirst"));
    absent(spec, "schedulerName", || json!("default-scheduler"));
    absent(spec, "securityContext", || json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        super::volume::defaults(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container_defaults(container, host_network);
                if list == "ephemeralContainers" {
                    // It can not ask for any.
                    container.remove("resources");
                }
            }
        }
    }
}

/// The counts and times of a container's probes, and where they ask.
fn probes(container: &mut Map<String, Value>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(name).and_then(Value::as_object_mut) else { continue };
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            if probe.get(field) == Some(&json!(0)) {
                probe.remove(field);
            }
            absent(probe, field, || json!(value));
        }
        if let Some(ask) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
            absent(ask, "path", || json!("/"));
            absent(ask, "scheme", || json!("HTTP"));
        }
        if let Some(ask) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
            absent(ask, "service", || json!(""));
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        let mut at = hook.split('/').skip(1);
        let first = at.next().and_then(|name| container.get_mut(name));
        let ask = at.fold(first, |found, name| found.and_then(|found| found.get_mut(name)));
        if let Some(ask) = ask.and_then(Value::as_object_mut) {
            absent(ask, "path", || json!("/"));
            absent(ask, "scheme", || json!("HTTP"));
        }
    }
}

/// Whether an image name means what is newest: its tag is `latest`, or it has neither tag nor digest.
fn means_latest(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn container_defaults(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if means_latest(image) { "Always" } else { "IfNotPresent" };
    absent(container, "imagePullPolicy", || json!(policy));
    absent(container, "resources", || json!({}));
    probes(container);
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(requests) = (!limits.is_empty()).then(|| child_of(resources, "requests")).flatten() {
            for (name, amount) in limits {
                requests.entry(name).or_insert(amount);
            }
        }
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        absent(port, "protocol", || json!("TCP"));
        if let (true, Some(number)) = (host_network, port.get("containerPort").cloned()) {
            absent(port, "hostPort", || number);
        }
    }
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        let source = variable.pointer_mut("/valueFrom/fieldRef").and_then(Value::as_object_mut);
        if let Some(reference) = source {
            absent(reference, "apiVersion", || json!("v1"));
        }
    }
}

pub(super) fn absent(map: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> Value) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value());
    }
}

trait Fields {
    fn fields(&mut self) -> Option<&mut Map<String, Value>>;
}

impl Fields for Value {
    fn fields(&mut self) -> Option<&mut Map<String, Value>> {
        self.as_object_mut()
    }
}

impl Fields for Map<String, Value> {
    fn fields(&mut self) -> Option<&mut Map<String, Value>> {
        Some(self)
    }
}

/// The object under a name, made when absent; `None` when something else is there.
fn child<'a>(parent: &'a mut impl Fields, name: &str) -> Option<&'a mut Map<String, Value>> {
    child_of(parent.fields()?, name)
}

fn child_of<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    parent.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::super::kind;
    use super::*;

    #[test]
    fn a_deployment_is_filled_in() {
        let mut object = json!({"spec": {"template": {"spec": {"hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}}}});
        apply(&kind::DEPLOYMENT, &mut object);
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        assert_eq!(pod["containers"][0]["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}));
        assert_eq!(pod["containers"][0]["resources"]["requests"]["cpu"], "1");
    }

    #[test]
    fn what_is_newest_is_asked_for_each_time() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("host:5000/a", "Always"),
            ("host:5000/a:1", "IfNotPresent"),
            ("a:1", "IfNotPresent"),
            (&digest, "IfNotPresent"),
        ] {
            let mut pod = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
            apply(&kind::POD, &mut pod);
            assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
        }
    }

    #[test]
    fn what_is_set_stays_and_twice_is_once() {
        let mut object = json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}});
        apply(&kind::DEPLOYMENT, &mut object);
        assert_eq!(object["spec"]["replicas"], 0);
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
        let once = object.clone();
        apply(&kind::DEPLOYMENT, &mut object);
        assert_eq!(object, once);
    }
}

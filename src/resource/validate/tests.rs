use serde_json::json;

use super::super::{defaults, kind};
use super::*;

fn pod(spec: &Value) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec});
    defaults::apply(&kind::POD, &mut object);
    object
}

fn errors_of(spec: &Value) -> Vec<String> {
    object(&kind::POD, &pod(spec)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_pod_passes() {
    let spec = json!({"hostNetwork": true, "containers": [{"name": "a", "image": "web:1", "ports": [{"containerPort": 80, "name": "http"}],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}, {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}, "securityContext": {"capabilities": {"add": ["CAP_CHOWN"]}}}]});
    assert_eq!(errors_of(&spec), Vec::<String>::new());
    assert_eq!(readable(&kind::POD, &pod(&spec)), Ok(()));
}

#[test]
fn every_mistake_is_named_at_once() {
    let found = errors_of(&json!({"restartPolicy": "Sometimes", "containers": [
        {"name": "A", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": 81}, {"containerPort": 70000}]},
        {"name": "b", "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.color"}}}],
         "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
         "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
        {"name": "b", "image": "x"}]}));
    for start in [
        "spec.hostNetwork: Required value: pods need hostNetwork: true",
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        "spec.containers[0].name: Invalid value: \"A\"",
        "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[0].ports[0].hostPort: Invalid value: 81",
        "spec.containers[1].image: Required value",
        "spec.containers[1].env[0].valueFrom.fieldRef.fieldPath: Unsupported value",
        "spec.containers[1].resources.requests.cpu: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        "spec.containers[1].securityContext.capabilities.add[0]: Unsupported value: \"SYS_ADMIN\"",
        "spec.containers[2].name: Duplicate value: \"b\"",
    ] {
        assert!(found.iter().any(|error| error.starts_with(start)), "{start} is not in {found:#?}");
    }
}

fn deployment() -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "web:1"}]}}}});
    defaults::apply(&kind::DEPLOYMENT, &mut object);
    object
}

#[test]
fn deployments_select_their_own_pods() {
    assert_eq!(object(&kind::DEPLOYMENT, &deployment()), []);
    let mut other = deployment();
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let found = object(&kind::DEPLOYMENT, &other)[0].to_string();
    assert_eq!(
        found,
        "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
    );
    other["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(object(&kind::DEPLOYMENT, &other)[0].to_string(), "spec.selector: Required value");
    let mut stuck = deployment();
    stuck["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"});
    assert_eq!(object(&kind::DEPLOYMENT, &stuck)[0].path, "spec.strategy.rollingUpdate.maxUnavailable");
}

#[test]
fn some_things_never_change() {
    let old = deployment();
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(3);
    assert_eq!(update(&kind::DEPLOYMENT, &old, &new), []);
    new["spec"]["selector"]["matchLabels"]["app"] = json!("x");
    assert!(update(&kind::DEPLOYMENT, &old, &new)[0].to_string().ends_with("field is immutable"));

    let old = pod(&json!({"hostNetwork": true, "containers": [{"name": "a", "image": "web:1"}]}));
    let mut bound = old.clone();
    bound["spec"]["nodeName"] = json!("n1");
    assert_eq!(update(&kind::POD, &old, &bound), []);
    let mut moved = bound.clone();
    moved["spec"]["nodeName"] = json!("n2");
    assert!(update(&kind::POD, &bound, &moved)[0].to_string().contains("changed: nodeName"));

    let old = json!({"immutable": true, "data": {"a": "1"}});
    assert_eq!(update(&kind::CONFIG_MAP, &old, &json!({"immutable": true, "data": {"a": "2"}})).len(), 1);
}

#[test]
fn names_are_checked() {
    let mut object_ = deployment();
    object_["metadata"]["name"] = json!("Web_1");
    object_["metadata"]["labels"] = json!({"a b": "c d"});
    assert_eq!(object(&kind::DEPLOYMENT, &object_).len(), 3);
}

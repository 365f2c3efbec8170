use serde_json::json;

use super::*;

fn object() -> Value {
    json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 1, "template": {"spec": {"containers": [
        {"name": "web", "image": "web:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
         "ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]},
        {"name": "side", "image": "side:1", "args": ["a", "b"]}]}}}})
}

fn strategic(patch: Value) -> Value {
    apply(PatchKind::Strategic, &object(), patch).unwrap()
}

#[test]
fn json_patch_and_merge_patch() {
    let patched =
        apply(PatchKind::Json, &object(), json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])).unwrap();
    assert_eq!(patched["spec"]["replicas"], 3);
    let failed = apply(PatchKind::Json, &object(), json!([{"op": "test", "path": "/spec/replicas", "value": 9}]));
    assert!(matches!(failed, Err(PatchError::Misfit(_))));
    assert!(matches!(apply(PatchKind::Json, &object(), json!({"op": "x"})), Err(PatchError::Malformed(_))));
    let patched =
        apply(PatchKind::Merge, &object(), json!({"metadata": {"labels": {"a": null}}, "spec": {"x": [1]}})).unwrap();
    assert_eq!(patched["metadata"]["labels"], json!({"b": "2"}));
    assert!(apply(PatchKind::Merge, &object(), json!([1])).is_err());
}

#[test]
fn lists_merge_by_their_keys() {
    let patched = strategic(json!({"spec": {"template": {"spec": {"containers": [
        {"name": "web", "image": "web:2", "env": [{"name": "Y", "$patch": "delete"}, {"name": "Z", "value": "3"}],
         "ports": [{"containerPort": 53, "protocol": "UDP", "name": "dns"}]},
        {"name": "side", "args": ["c"]}]}}}}));
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "web:2");
    assert_eq!(containers[0]["env"], json!([{"name": "X", "value": "1"}, {"name": "Z", "value": "3"}]));
    assert_eq!(containers[0]["ports"][1]["name"], "dns");
    assert_eq!(containers[0]["ports"][0].get("name"), None);
    assert_eq!(containers[1], json!({"name": "side", "image": "side:1", "args": ["c"]}));
}

#[test]
fn directives_delete_replace_and_order() {
    let patched = strategic(json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "new"}, {"name": "web"}],
        "containers": [{"name": "new", "image": "new:1"}, {"name": "side", "$patch": "delete"}]}}}}));
    let names: Vec<_> = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["new", "web"]);
    let patched = strategic(json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}));
    assert_eq!(patched["metadata"]["labels"], json!({"c": "3"}));
    let patched =
        strategic(json!({"spec": {"template": {"spec": {"containers": [{"$patch": "replace"}, {"name": "one"}]}}}}));
    assert_eq!(patched["spec"]["template"]["spec"]["containers"], json!([{"name": "one"}]));
    let patched = strategic(json!({"spec": {"template": {"$patch": "delete"}}}));
    assert_eq!(patched["spec"], json!({"replicas": 1}));
}

#[test]
fn sets_and_retained_keys() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
        "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let patched = apply(PatchKind::Strategic, &object, patch).unwrap();
    let mut finalizers = patched["metadata"]["finalizers"].as_array().unwrap().clone();
    finalizers.sort_by_key(ToString::to_string);
    assert_eq!(finalizers, [json!("b"), json!("c")]);
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn a_patch_without_its_merge_key_is_refused() {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
    assert!(matches!(apply(PatchKind::Strategic, &object(), patch), Err(PatchError::Malformed(_))));
    assert!(apply(PatchKind::Strategic, &object(), json!({"spec": {"$patch": "explode"}})).is_err());
}

#[test]
fn copies_of_copies_are_refused() {
    let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x"]})];
    operations.extend((0..100).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/0"})));
    let failed = apply(PatchKind::Json, &object(), Value::Array(operations));
    assert!(matches!(failed, Err(PatchError::Misfit(reason)) if reason.contains("copies more than")));
}

#[test]
fn an_object_merged_into_itself_stays() {
    let all = object();
    assert_eq!(apply(PatchKind::Strategic, &all, all.clone()).unwrap(), all);
    assert_eq!(apply(PatchKind::Strategic, &json!({}), all.clone()).unwrap(), all);
}

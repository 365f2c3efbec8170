//! Create, read, update, patch, scale, delete.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::fleet::{DEPLOYMENTS, Fleet, PODS, deployment, pod};

#[tokio::test]
async fn an_object_lives_through_its_verbs() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let made = device.send("POST", PODS, &pod("web")).await.expect(201);
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-01-31T07:05:09Z");
    let path = format!("{PODS}/web");
    assert_eq!(device.get(&path).await.expect(200), made);

    let again = device.send("POST", PODS, &pod("web")).await.expect(409);
    assert_eq!(again["reason"], "AlreadyExists");
    assert_eq!(again["message"], "pods \"web\" already exists");

    let mut changed = made.clone();
    changed["metadata"]["labels"]["tier"] = json!("front");
    let changed = device.send("PUT", &path, &changed).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(changed["metadata"]["generation"], 1);
    let stale = device.send("PUT", &path, &made).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");

    let list = device
        .get(&format!("{PODS}?labelSelector=tier%3Dfront&fieldSelector=status.phase%3DPending"))
        .await
        .expect(200);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("PodList"), 1));
    let none = device.get("/api/v1/pods?labelSelector=tier%3Dback").await.expect(200);
    assert_eq!(none["items"], json!([]));
    assert_eq!(device.get("/api/v1/pods?fieldSelector=spec.color%3Dred").await.status, 400);

    let gone = device.delete(&path).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    let missing = device.get(&path).await.expect(404);
    assert_eq!(missing["message"], "pods \"web\" not found");
    assert_eq!(device.delete(&path).await.status, 404);
}

/// From 256 KiB on a list is made on another thread.
#[tokio::test]
async fn a_large_list_says_what_a_small_one_says() {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let filling = "x".repeat(60_000);
    let map = |number: usize| {
        let half = if number.is_multiple_of(2) { "even" } else { "odd" };
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"filling": filling},
            "metadata": {"name": format!("m-{number}"), "labels": {"half": half}}})
    };
    let mut made = Vec::new();
    for number in 0..9 {
        made.push(device.send("POST", MAPS, &map(number)).await.expect(201));
    }
    let list = device.get(MAPS).await.expect(200);
    let strip = |mut object: serde_json::Value| {
        let fields = object.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        object
    };
    let items: Vec<_> = list["items"].as_array().unwrap().iter().cloned().map(strip).collect();
    assert_eq!(items, made.iter().cloned().map(strip).collect::<Vec<_>>());
    assert_eq!(list["metadata"]["resourceVersion"], made[8]["metadata"]["resourceVersion"]);

    let odd = device.get(&format!("{MAPS}?labelSelector=half%3Dodd")).await.expect(200);
    let names: Vec<_> = odd["items"].as_array().unwrap().iter().map(|map| map["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["m-1", "m-3", "m-5", "m-7"]);
    let one = device.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm-4")).await.expect(200);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert_eq!(device.get(&format!("{MAPS}?labelSelector=%21%21")).await.status, 400);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = device.ask("GET", MAPS, &table, b"").await.expect(200);
    assert_eq!((&table["kind"], table["rows"].as_array().unwrap().len()), (&json!("Table"), 9));
}

#[tokio::test]
async fn mistakes_are_refused_with_their_fields() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let mut bad = deployment("web");
    bad["spec"]["selector"]["matchLabels"]["app"] = json!("other");
    bad["spec"]["template"]["spec"]["volumes"] = json!([{"name": "v", "nfs": {"server": "s"}}]);
    let refused = device.send("POST", DEPLOYMENTS, &bad).await.expect(422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("Deployment.apps \"web\" is invalid: ["), "{message}");
    assert!(
        message.contains("spec.template.spec.volumes[0].nfs: Forbidden: a device mounts no storage over the network"),
        "{message}"
    );
    assert!(message.contains("`selector` does not match template `labels`"), "{message}");
    assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 2);

    let mut no_server = pod("web");
    no_server["spec"]["dnsPolicy"] = json!("None");
    let refused = device.send("POST", PODS, &no_server).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("must provide at least one DNS nameserver"));

    let mut typo = deployment("web");
    typo["spec"]["replica"] = json!(3);
    let strict = device.send("POST", &format!("{DEPLOYMENTS}?fieldValidation=Strict"), &typo).await.expect(400);
    assert!(strict["message"].as_str().unwrap().contains("strict decoding error: unknown field \"spec.replica\""));
    let mut typed = pod("web");
    typed["spec"]["containers"][0]["command"] = json!("ls");
    let refused = device.send("POST", PODS, &typed).await.expect(400);
    assert!(refused["message"].as_str().unwrap().contains("spec.containers[0].command: expected a list of strings"));

    assert_eq!(
        device.send("POST", "/api/v1/namespaces/nowhere/pods", &pod("web")).await.expect(404)["message"],
        "namespaces \"nowhere\" not found"
    );
    assert_eq!(device.send("POST", "/apis/apps/v1/namespaces/default/widgets", &pod("web")).await.status, 404);
    assert_eq!(device.send("POST", DEPLOYMENTS, &pod("web")).await.status, 400);
    assert_eq!(device.send("PUT", PODS, &pod("web")).await.status, 405);
    assert_eq!(device.send("POST", "/api/v1/pods", &pod("web")).await.status, 405);
}

#[tokio::test]
async fn what_is_not_honoured_is_told() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let mut object = pod("web");
    object["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}});
    object["spec"]["contaners"] = json!([]);
    let reply = device.send("POST", PODS, &object).await;
    let made = reply.expect(201);
    assert_eq!(reply.warnings.len(), 2, "{:?}", reply.warnings);
    assert!(reply.warnings[0].starts_with("299 - \"spec.affinity: not honoured: only nodeSelector"));
    assert!(reply.warnings[1].contains("unknown field \\\"spec.contaners\\\" (did you mean \\\"containers\\\"?)"));
    assert!(made["spec"].get("affinity").is_some(), "what is warned about is kept");
    assert!(made["spec"].get("contaners").is_none());
}

#[tokio::test]
async fn patches_of_every_kind() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    device.send("POST", DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let merged = device.patch("merge-patch+json", &path, &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!((&merged["spec"]["replicas"], &merged["metadata"]["generation"]), (&json!(3), &json!(2)));
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "web:2"}]}}}});
    let strategic = device.patch("strategic-merge-patch+json", &path, &patch).await.expect(200);
    assert_eq!(strategic["spec"]["template"]["spec"]["containers"][0]["image"], "web:2");
    assert_eq!(strategic["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let patch = json!([{"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "replace", "path": "/spec/replicas", "value": 4}]);
    assert_eq!(device.patch("json-patch+json", &path, &patch).await.expect(200)["spec"]["replicas"], 4);
    assert_eq!(device.patch("json-patch+json", &path, &patch).await.status, 422);
    assert_eq!(device.patch("strange-patch+json", &path, &json!({})).await.status, 415);

    let fixed = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}});
    let refused = device.patch("merge-patch+json", &path, &fixed).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("field is immutable"));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 9}});
    assert_eq!(device.patch("merge-patch+json", &path, &stale).await.status, 409);
    let same = device.patch("merge-patch+json", &path, &json!({"spec": {"replicas": 4}})).await.expect(200);
    assert_eq!(same["metadata"]["generation"], 4, "what changes nothing is not written");
}

#[tokio::test]
async fn server_side_apply_creates_and_merges() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let path = format!("{DEPLOYMENTS}/web?fieldManager=me");
    let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
                template:\n    metadata: {labels: {app: web}}\n    spec:\n      hostNetwork: true\n      containers:\n      - {name: main, image: web:1}\n";
    let head = [("content-type", "application/apply-patch+yaml")];
    assert_eq!(device.ask("PATCH", &path, &head, yaml.as_bytes()).await.expect(201)["spec"]["replicas"], 1);
    let more = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {a: b}}\nspec: {replicas: 5}\n";
    let merged = device.ask("PATCH", &path, &head, more.as_bytes()).await.expect(200);
    assert_eq!((&merged["spec"]["replicas"], &merged["metadata"]["labels"]["a"]), (&json!(5), &json!("b")));
    assert_eq!(device.ask("PATCH", &format!("{DEPLOYMENTS}/web"), &head, more.as_bytes()).await.status, 400);
    let broken = device.ask("PATCH", &path, &head, b"a: [").await.expect(400);
    assert!(broken["message"].as_str().unwrap().contains("line 1"), "{broken}");
}

#[tokio::test]
async fn scale_and_status_change_only_their_part() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    device.send("POST", DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let mut scale = device.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = json!(6);
    assert_eq!(device.send("PUT", &format!("{path}/scale"), &scale).await.expect(200)["spec"]["replicas"], 6);
    assert_eq!(device.send("PUT", &format!("{path}/scale"), &scale).await.status, 409);
    let patch = json!({"spec": {"replicas": 7}});
    assert_eq!(
        device.patch("merge-patch+json", &format!("{path}/scale"), &patch).await.expect(200)["spec"]["replicas"],
        7
    );
    let negative = device.patch("merge-patch+json", &format!("{path}/scale"), &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.status, 422);

    let mut object = device.get(&path).await.expect(200);
    assert_eq!(object["metadata"]["generation"], 3);
    object["spec"]["replicas"] = json!(99);
    object["status"] = json!({"replicas": 7, "readyReplicas": 7});
    let told = device.send("PUT", &format!("{path}/status"), &object).await.expect(200);
    assert_eq!((&told["spec"]["replicas"], &told["status"]["readyReplicas"]), (&json!(7), &json!(7)));
    let mut object = told.clone();
    object["status"] = json!({"readyReplicas": 0});
    assert_eq!(device.send("PUT", &path, &object).await.expect(200)["status"]["readyReplicas"], 7);
    object["status"] = json!({"readyReplicas": "many"});
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(device.send("PUT", &format!("{path}/status"), &object).await.status, 400);
}

#[tokio::test]
async fn pods_on_devices_go_gracefully() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    fleet.node("a").await;
    let mut bound = pod("web");
    bound["spec"]["nodeName"] = json!("a");
    device.send("POST", PODS, &bound).await.expect(201);
    let path = format!("{PODS}/web");
    let marked = device.delete(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-31T07:05:39Z");
    let longer = device.delete(&format!("{path}?gracePeriodSeconds=60")).await.expect(200);
    assert_eq!(longer["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    let shorter = device.send("DELETE", &path, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(device.send("DELETE", &path, &wrong).await.status, 409);
    assert_eq!(device.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200)["status"], "Success");

    bound["metadata"]["name"] = json!("lost");
    bound["spec"]["nodeName"] = json!("nowhere");
    device.send("POST", PODS, &bound).await.expect(201);
    assert_eq!(device.delete(&format!("{PODS}/lost")).await.expect(200)["status"], "Success");
}

#[tokio::test]
async fn owners_and_collections_are_deleted() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let owner = device.send("POST", DEPLOYMENTS, &deployment("web")).await.expect(201);
    let mut owned = deployment("web-1");
    owned["kind"] = json!("ReplicaSet");
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
        "uid": owner["metadata"]["uid"], "controller": true}]);
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    device.send("POST", sets, &owned).await.expect(201);
    device.send("DELETE", &format!("{DEPLOYMENTS}/web"), &json!({"propagationPolicy": "Orphan"})).await.expect(200);
    let orphan = device.get(&format!("{sets}/web-1")).await.expect(200);
    assert_eq!(orphan["metadata"]["ownerReferences"], json!([]));
    assert_eq!(device.delete(&format!("{sets}/web-1?propagationPolicy=Sideways")).await.status, 400);
    let foreground = device.delete(&format!("{sets}/web-1?propagationPolicy=Foreground")).await;
    assert_eq!((foreground.status, foreground.warnings.len()), (200, 1));

    for name in ["a", "b", "c"] {
        device.send("POST", PODS, &pod(name)).await.expect(201);
    }
    device.delete(&format!("{PODS}?labelSelector=app+in+(a,b)")).await.expect(200);
    let left = device.get(PODS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_namespace_closes_before_it_goes() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}});
    let made = device.send("POST", "/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "web");
    let pods = "/api/v1/namespaces/web/pods";
    device.send("POST", pods, &pod("a")).await.expect(201);
    let closed = device.delete("/api/v1/namespaces/web").await.expect(200);
    assert_eq!(closed["status"]["phase"], "Terminating");
    let refused = device.send("POST", pods, &pod("b")).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("because it is being terminated"));
    assert_eq!(device.delete("/api/v1/namespaces/default").await.status, 403);
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_write_nothing() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let mut object = pod("x");
    object["metadata"] = json!({"generateName": "web-"});
    let made = device.send("POST", PODS, &object).await.expect(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");

    let dry = device.send("POST", &format!("{PODS}?dryRun=All"), &pod("dry")).await.expect(201);
    assert_eq!(dry["metadata"]["name"], "dry");
    assert_eq!(device.get(&format!("{PODS}/dry")).await.status, 404);
    assert_eq!(device.delete(&format!("{PODS}/{name}?dryRun=All")).await.status, 200);
    assert_eq!(device.get(&format!("{PODS}/{name}")).await.status, 200);
    assert_eq!(device.send("POST", &format!("{PODS}?dryRun=Some"), &pod("dry")).await.status, 400);
}

#[tokio::test]
async fn a_device_that_is_cut_off_says_so() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    device.send("POST", PODS, &pod("web")).await.expect(201);
    fleet.memory.cut_off.store(true, Ordering::SeqCst);
    let read = device.get(PODS).await;
    assert_eq!(read.expect(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        read.warnings,
        ["299 - \"this is what device a knew 3m12s ago: it can not reach a quorum (1 of 3 voters is reachable)\""]
    );
    assert!(device.get(&format!("{PODS}?resourceVersion=0")).await.warnings.is_empty());
    let refused = device.send("POST", PODS, &pod("other")).await.expect(503);
    assert_eq!(refused["reason"], "ServiceUnavailable");
    assert!(refused["message"].as_str().unwrap().contains("1 of 3 voters is reachable, 2 are needed"));
    assert_eq!(device.delete(&format!("{PODS}/web")).await.status, 503);
    assert_eq!(device.delete(&format!("{PODS}/unknown")).await.status, 503, "it may exist elsewhere");
}

//! Evictions: pods that are asked to go, by clients that drain a device.

use serde_json::{Value, json};

use crate::fleet::{Device, Fleet, PODS, pod};

fn eviction(version: &str, options: &Value) -> Value {
    json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "web", "namespace": "default"},
        "deleteOptions": options})
}

fn path(name: &str) -> String {
    format!("{PODS}/{name}/eviction")
}

async fn web(device: &Device) -> Value {
    device.get(&format!("{PODS}/web")).await.expect(200)
}

#[tokio::test]
async fn a_pod_is_evicted_as_its_options_say() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    fleet.node("a").await;
    let mut object = pod("web");
    object["spec"]["nodeName"] = json!("a");
    let made = device.send("POST", PODS, &object).await.expect(201);

    for (query, options) in [("", json!({"dryRun": ["All"]})), ("?dryRun=All", Value::Null)] {
        let path = format!("{}{query}", path("web"));
        device.send("POST", &path, &eviction("policy/v1", &options)).await.expect(201);
        assert_eq!(web(&device).await, made, "nothing is written");
    }
    for precondition in [json!({"uid": "another"}), json!({"resourceVersion": "1"})] {
        let body = eviction("policy/v1", &json!({"preconditions": precondition}));
        let refused = device.send("POST", &path("web"), &body).await.expect(409);
        assert!(refused["message"].as_str().unwrap().contains("Precondition failed"), "{refused}");
        assert_eq!(web(&device).await, made);
    }

    let options = json!({"gracePeriodSeconds": 5, "preconditions": {"uid": made["metadata"]["uid"]}});
    let status = device.send("POST", &path("web"), &eviction("policy/v1beta1", &options)).await.expect(201);
    assert_eq!(
        (&status["kind"], &status["status"], &status["code"]),
        (&json!("Status"), &json!("Success"), &json!(201))
    );
    let marked = web(&device).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // Again, and a last time without grace: as the device itself confirms it.
    device.send("POST", &path("web"), &eviction("policy/v1", &Value::Null)).await.expect(201);
    assert_eq!(web(&device).await, marked);
    device.send("POST", &path("web"), &eviction("policy/v1", &json!({"gracePeriodSeconds": 0}))).await.expect(201);
    assert_eq!(device.get(&format!("{PODS}/web")).await.status, 404);
    device.send("POST", &path("web"), &eviction("policy/v1", &Value::Null)).await.expect(404);
}

#[tokio::test]
async fn what_is_no_eviction_of_this_pod_is_refused() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let made = device.send("POST", PODS, &pod("web")).await.expect(201);
    device.send("POST", PODS, &pod("other")).await.expect(201);
    let mut elsewhere = eviction("policy/v1", &Value::Null);
    elsewhere["metadata"]["namespace"] = json!("another");
    for (name, body, part) in [
        ("web", eviction("policy/v2", &Value::Null), "policy/v1 or policy/v1beta1"),
        ("web", eviction("v1", &Value::Null), "policy/v1 or policy/v1beta1"),
        ("web", pod("web"), "policy/v1 or policy/v1beta1"),
        ("web", json!(["not", "an", "object"]), "policy/v1 or policy/v1beta1"),
        ("web", json!({}), "policy/v1 or policy/v1beta1"),
        ("other", eviction("policy/v1", &Value::Null), "name"),
        ("web", elsewhere, "namespace"),
        ("web", eviction("policy/v1", &json!({"dryRun": ["Some"]})), "dryRun"),
    ] {
        let refused = device.send("POST", &path(name), &body).await.expect(400);
        assert!(refused["message"].as_str().unwrap().contains(part), "{refused}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        device.send(method, &path("web"), &eviction("policy/v1", &Value::Null)).await.expect(405);
    }
    assert_eq!(web(&device).await, made);
}

#[tokio::test]
async fn a_dry_run_that_the_body_of_a_delete_asks_for_is_one() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let made = device.send("POST", PODS, &pod("web")).await.expect(201);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    for path in [format!("{PODS}/web"), PODS.to_owned()] {
        device.send("DELETE", &path, &options).await.expect(200);
        assert_eq!(web(&device).await, made);
    }
}

//! Secrets: seen by administrators, locked wherever they lie.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kith::consensus::Replica as _;
use kith::store::Key;
use serde_json::{Value, json};

use crate::fleet::{Device, Fleet};
use crate::watch::Events;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PLAIN: &str = "correct horse battery staple";

fn secret(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": format!("all of it: {value}")}},
        "stringData": {"password": value}, "data": {"user": BASE64.encode("root")}})
}

/// What lies in the store, as text with everything in base64 decoded too.
fn stored(fleet: &Fleet) -> String {
    let document = fleet.memory.get(&Key::new("Secret", "default", "db")).unwrap().unwrap();
    let mut text = String::from_utf8(document.body).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap();
    for (_, value) in object["data"].as_object().unwrap() {
        text += &String::from_utf8_lossy(&BASE64.decode(value.as_str().unwrap()).unwrap());
    }
    text
}

fn assert_shown(object: &Value, value: &str) {
    assert_eq!(object["data"], json!({"password": BASE64.encode(value), "user": BASE64.encode("root")}), "{object}");
    let kept = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(kept, &json!(format!("all of it: {value}")));
    assert!(object.get("stringData").is_none());
}

async fn made(device: &Device) -> Value {
    device.send("POST", SECRETS, &secret(PLAIN)).await.expect(201)
}

#[tokio::test]
async fn values_are_locked_in_the_store_and_open_for_administrators() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let object = made(&device).await;
    assert_eq!(object["type"], "Opaque");
    assert_shown(&object, PLAIN);
    assert!(!stored(&fleet).contains(PLAIN) && !stored(&fleet).contains(&BASE64.encode(PLAIN)));
    let path = format!("{SECRETS}/db");
    assert_shown(&device.get(&path).await.expect(200), PLAIN);
    assert_shown(&device.get("/api/v1/secrets").await.expect(200)["items"][0], PLAIN);

    // The same again changes nothing: a locked value looks different each time that it is locked.
    let before = stored(&fleet);
    let same = device.send("PUT", &path, &device.get(&path).await.expect(200)).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    assert_eq!(stored(&fleet), before);

    // One value changes, and the other keeps its stored form.
    let user = |text: &str| {
        let at = text.find("\"user\":\"").unwrap() + 8;
        text[at..].split('"').next().unwrap().to_owned()
    };
    let patch = json!({"stringData": {"password": "new one"}});
    let changed = device.patch("merge-patch+json", &path, &patch).await.expect(200);
    assert_eq!(changed["data"]["password"], json!(BASE64.encode("new one")));
    assert_eq!(user(&stored(&fleet)), user(&before));
    let table = device.open("GET", SECRETS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], b"").await;
    let body = http_body_util::BodyExt::collect(table.into_body()).await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["db", "Opaque", 2, "0s"]));
}

#[tokio::test]
async fn a_watch_shows_the_values_too() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    made(&device).await;
    let mut events = Events::at(&device, SECRETS, "").await;
    assert_shown(&events.expect("ADDED", "db").await["object"], PLAIN);
    let patch = json!({"stringData": {"password": "new one"}});
    device.patch("merge-patch+json", &format!("{SECRETS}/db"), &patch).await.expect(200);
    let event = events.expect("MODIFIED", "db").await;
    assert_eq!(event["object"]["data"]["password"], json!(BASE64.encode("new one")));
}

#[tokio::test]
async fn what_can_not_be_a_secret_is_refused_and_never_repeats_a_value() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for (object, why) in [
        (json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}), "data[tls.key]: Required value"),
        (
            json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "hunter2"}}),
            "<secret contents redacted>",
        ),
        (json!({"type": "kubernetes.io/basic-auth"}), "data[username]: Required value"),
        (json!({"stringData": {"a/b": "hunter2"}}), "data[a/b]: Invalid value"),
        (json!({"stringData": {"a": "hunter2".repeat(200_000)}}), "may not be more than 1048576 bytes"),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "bad"});
        let refused = device.send("POST", SECRETS, &object).await.expect(422);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(why) && !message.contains("hunter2"), "{message}");
    }
    made(&device).await;
    let path = format!("{SECRETS}/db");
    device.patch("merge-patch+json", &path, &json!({"immutable": true})).await.expect(200);
    let refused = device.patch("merge-patch+json", &path, &json!({"stringData": {"password": "x"}})).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("immutable"), "{refused}");
    let refused = device.patch("merge-patch+json", &path, &json!({"type": "other"})).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("type: Invalid value"), "{refused}");
}

#[tokio::test]
async fn a_claim_is_bound_from_the_start_and_stays_on_its_device() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "db"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let made = device.send("POST", claims, &claim).await.expect(201);
    assert_eq!(made["status"]["phase"], "Bound");
    assert_eq!(made["status"]["capacity"]["storage"], "1Gi");
    let path = format!("{claims}/db");
    let bind = |device: &str| json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": device}}});
    device.patch("merge-patch+json", &path, &bind("d1")).await.expect(200);
    let refused = device.patch("merge-patch+json", &path, &bind("d2")).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("is on device d1"), "{refused}");
    for (field, value, why) in [
        ("accessModes", json!([]), "at least 1 access mode"),
        ("accessModes", json!(["Often"]), "Unsupported value"),
        ("resources", json!({}), "spec.resources[storage]: Required value"),
        ("volumeMode", json!("Block"), "not a block device"),
        ("dataSource", json!({"kind": "VolumeSnapshot", "name": "x"}), "an empty folder"),
    ] {
        let mut bad = claim.clone();
        bad["metadata"]["name"] = json!("bad");
        bad["spec"][field] = value;
        let refused = device.send("POST", claims, &bad).await.expect(422);
        assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");
    }
}

//! Watches.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::fleet::{Device, Fleet, NOW, PODS, pod};

/// Reads a watch event by event.
pub(crate) struct Events {
    body: Incoming,
    rest: Vec<u8>,
}

impl Events {
    async fn open(device: &Device, query: &str) -> Self {
        Self::at(device, PODS, query).await
    }

    pub(crate) async fn at(device: &Device, path: &str, query: &str) -> Self {
        let response = device.open("GET", &format!("{path}?watch=1&{query}"), &[], b"").await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), rest: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap_or(Bytes::new()));
        }
    }

    pub(crate) async fn expect(&mut self, change: &str, name: &str) -> Value {
        let event = self.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(change), &json!(name)), "{event}");
        event
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    device.send("POST", PODS, &pod("before")).await.expect(201);
    let mut all = Events::open(&device, "").await;
    all.expect("ADDED", "before").await;
    let list = device.get(PODS).await.expect(200);
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut labelled = Events::open(&device, &format!("resourceVersion={revision}&labelSelector=tier=a")).await;

    let made = device.send("POST", PODS, &pod("web")).await.expect(201);
    let event = all.expect("ADDED", "web").await;
    assert_eq!(event["object"], made, "a watcher sees what the writer saw");
    let label = |tier: &str| json!({"metadata": {"labels": {"tier": tier}}});
    for tier in ["a", "b"] {
        device.patch("merge-patch+json", &format!("{PODS}/web"), &label(tier)).await.expect(200);
        all.expect("MODIFIED", "web").await;
    }
    labelled.expect("ADDED", "web").await;
    let left = labelled.expect("DELETED", "web").await;
    assert_eq!(left["object"]["metadata"]["labels"]["tier"], "a", "the last state that was selected");
    device.delete(&format!("{PODS}/web")).await.expect(200);
    all.expect("DELETED", "web").await;
    fleet.shutdown.cancel();
    assert!(all.next().await.is_none(), "a watch ends with the agent");
}

#[tokio::test]
async fn what_is_too_old_is_gone() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    for number in 0..300 {
        let mut object = pod("web");
        object["metadata"]["namespace"] = json!("default");
        object["spec"]["containers"][0]["image"] = json!(format!("web:{number}"));
        fleet.put("Pod", &object).await;
    }
    let mut events = Events::open(&device, "resourceVersion=2").await;
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(events.next().await.is_none());
    assert_eq!(device.get(&format!("{PODS}?watch=1&resourceVersion=x")).await.status, 400);
    assert_eq!(device.get(&format!("{PODS}?watch=1&sendInitialEvents=true")).await.status, 422);
}

#[tokio::test]
async fn bookmarks_and_tables() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let query = "resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut events = Events::open(&device, query).await;
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert!(events.next().await.is_none());

    device.send("POST", PODS, &pod("web")).await.expect(201);
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let reply = device.ask("GET", PODS, &accept, b"").await.expect(200);
    assert_eq!(
        reply["rows"][0]["cells"],
        json!(["web", "0/1", "Pending", "0", "0s", "<none>", "<none>", "<none>", "<none>"])
    );
    assert_eq!(reply["rows"][0]["object"]["metadata"]["creationTimestamp"], NOW.to_string());
    let watched = device.ask("GET", &format!("{PODS}?watch=1&timeoutSeconds=1"), &accept, b"").await;
    assert_eq!(watched.json()["object"]["kind"], "Table");
}

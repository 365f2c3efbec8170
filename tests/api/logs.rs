//! `pods/log`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fleet::{Device, Fleet, PODS, pod};

/// A pod bound to a device, and the folder of its container's logs.
async fn running(fleet: &Fleet, device: &Device, name: &str, node: &str) -> PathBuf {
    let mut object = pod(name);
    object["spec"]["nodeName"] = json!(node);
    let made = device.send("POST", PODS, &object).await.expect(201);
    status(device, name, &json!({"phase": "Running", "containerStatuses": [container(0, &json!({"running": {}}))]}))
        .await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let folder = fleet.log_dir(node).join(format!("default_{name}_{uid}")).join("main");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn container(restarts: i64, state: &Value) -> Value {
    json!({"name": "main", "image": "web:1", "imageID": "", "ready": true, "restartCount": restarts, "state": state})
}

async fn status(device: &Device, name: &str, status: &Value) {
    device.patch("merge-patch+json", &format!("{PODS}/{name}/status"), &json!({"status": status})).await.expect(200);
}

fn write(path: &Path, lines: &[(&str, &str)]) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    for (tag, text) in lines {
        writeln!(file, "2026-01-31T07:05:0{}.000000000Z stdout {tag} {text}", text.len() % 10).unwrap();
    }
}

#[tokio::test]
async fn logs_are_read_over_rotations() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let folder = running(&fleet, &device, "web", "a").await;
    let path = format!("{PODS}/web/log");
    let lost = device.get(&path).await.expect(400);
    let told = "no log of container \"main\" in pod \"web\" is on its device: there is no room for one, which kith doctor \
                tells there, or it was lost";
    assert_eq!(lost["message"], told);
    let waits = container(0, &json!({"waiting": {"reason": "ImagePullBackOff"}}));
    status(&device, "web", &json!({"phase": "Pending", "containerStatuses": [waits]})).await;
    let waiting = device.get(&path).await.expect(400);
    assert_eq!(waiting["message"], "container \"main\" in pod \"web\" is waiting to start: ImagePullBackOff");

    write(&folder.join("0.log.2"), &[("F", "one"), ("F", "two")]);
    write(&folder.join("0.log.1"), &[("P", "thr"), ("F", "ee"), ("F", "four")]);
    write(&folder.join("0.log"), &[("F", "fives"), ("F", "")]);
    assert_eq!(device.get(&path).await.text, "one\ntwo\nthree\nfour\nfives\n\n");
    for (lines, expected) in [
        (0, ""),
        (1, "\n"),
        (2, "fives\n\n"),
        (3, "four\nfives\n\n"),
        (4, "three\nfour\nfives\n\n"),
        (5, "two\nthree\nfour\nfives\n\n"),
        (99, "one\ntwo\nthree\nfour\nfives\n\n"),
    ] {
        assert_eq!(device.get(&format!("{path}?tailLines={lines}")).await.text, expected, "{lines}");
    }
    assert_eq!(device.get(&format!("{path}?limitBytes=6")).await.text, "one\ntw");
    let stamped = device.get(&format!("{path}?timestamps=true&tailLines=4")).await.text;
    assert!(
        stamped.starts_with("2026-01-31T07:05:03.000000000Z three\n2026-01-31T07:05:04.000000000Z four\n"),
        "{stamped}"
    );
    // It is 07:05:09: lines of at least five letters are stamped at 07:05:05 or later.
    assert_eq!(device.get(&format!("{path}?sinceSeconds=4")).await.text, "fives\n");
    assert_eq!(device.get(&format!("{path}?sinceTime=2026-01-31T07:05:05Z")).await.text, "fives\n");
    assert_eq!(device.get(&format!("{path}?tailLines=-1")).await.status, 422);
    assert_eq!(device.get(&format!("{path}?previous=true")).await.status, 400);
    write(&folder.join("1.log"), &[("F", "again")]);
    assert_eq!(device.get(&path).await.text, "again\n");
    assert_eq!(device.get(&format!("{path}?previous=true&tailLines=1")).await.text, "\n");
    let crashed = json!({"name": "main", "image": "web:1", "imageID": "", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}});
    status(&device, "web", &json!({"phase": "Running", "containerStatuses": [crashed]})).await;
    assert_eq!(device.get(&format!("{path}?previous=true")).await.text, "again\n");
    assert_eq!(device.get(&format!("{path}?container=other")).await.status, 400);
    assert_eq!(device.get(&format!("{PODS}/other/log")).await.status, 404);
}

#[tokio::test]
async fn a_long_log_is_cut_at_its_lines() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let folder = running(&fleet, &device, "web", "a").await;
    let lines: Vec<String> = (0..20_000).map(|number| format!("line {number} {}", "x".repeat(number % 50))).collect();
    let tagged: Vec<(&str, &str)> = lines.iter().map(|line| ("F", line.as_str())).collect();
    write(&folder.join("0.log"), &tagged);
    for count in [1, 10, 777, 19_999] {
        let text = device.get(&format!("{PODS}/web/log?tailLines={count}")).await.text;
        let found: Vec<&str> = text.lines().collect();
        assert_eq!(found, lines[lines.len() - count..].iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_log_is_followed_to_the_containers_end() {
    let fleet = Fleet::new().await;
    let device = fleet.device("a").await;
    let folder = running(&fleet, &device, "web", "a").await;
    write(&folder.join("0.log"), &[("F", "one")]);
    let mut body = device.open("GET", &format!("{PODS}/web/log?follow=true"), &[], b"").await.into_body();
    let mut read = async |wanted: &str| {
        let mut text = String::new();
        while text.len() < wanted.len() {
            let frame = body.frame().await.expect("it goes on").unwrap();
            text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
        assert_eq!(text, wanted);
    };
    read("one\n").await;
    write(&folder.join("0.log"), &[("F", "two")]);
    read("two\n").await;
    // Rotated twice between two looks.
    write(&folder.join("0.log"), &[("F", "three")]);
    std::fs::rename(folder.join("0.log"), folder.join("0.log.2")).unwrap();
    write(&folder.join("0.log.1"), &[("F", "four")]);
    write(&folder.join("0.log"), &[("F", "five")]);
    read("three\nfour\nfive\n").await;
    write(&folder.join("0.log"), &[("F", "last")]);
    let ended = container(0, &json!({"terminated": {"exitCode": 0}}));
    status(&device, "web", &json!({"phase": "Succeeded", "containerStatuses": [ended]})).await;
    read("last\n").await;
    assert!(body.frame().await.is_none(), "it ends with the container");
}

#[tokio::test]
async fn logs_of_another_device_are_fetched_from_there() {
    let fleet = Fleet::new().await;
    let (here, _there) = (fleet.device("a").await, fleet.device("b").await);
    let folder = running(&fleet, &here, "web", "b").await;
    write(&folder.join("0.log"), &[("F", "one"), ("F", "two")]);
    assert_eq!(here.get(&format!("{PODS}/web/log?tailLines=1")).await.text, "two\n");
    running(&fleet, &here, "far", "c").await;
    let unreachable = here.get(&format!("{PODS}/far/log")).await.expect(503);
    assert_eq!(unreachable["message"], "device c can not be asked: c has no address");
    here.send("POST", PODS, &pod("unbound")).await.expect(201);
    assert_eq!(here.get(&format!("{PODS}/unbound/log")).await.status, 400);
}

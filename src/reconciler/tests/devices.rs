use std::time::Duration;

use super::*;
use crate::reconciler::container::DeviceNode;
use crate::reconciler::devices::{HostDevice, capacity, lost};

fn tty(number: u32, shared: bool) -> HostDevice {
    let path = format!("/dev/ttyUSB{number}").into();
    let node = DeviceNode { path, block: false, major: 188, minor: number, access: "rw".into() };
    HostDevice { resource: "kith.dev/ttyUSB".into(), node, shared }
}

fn asking(count: &str) -> Bench {
    let limits = json!({"limits": {"kith.dev/ttyUSB": count}});
    Bench::with(&json!({"spec": {"containers": [{"name": "web", "image": "web:1", "resources": limits}]}}))
}

fn given(bench: &Bench) -> Vec<u32> {
    let started = bench.decide().actions.into_iter().find_map(|action| match action {
        Action::Start(spec) => Some(spec.devices),
        _ => None,
    });
    started.unwrap_or_default().iter().map(|device| device.minor).collect()
}

fn other(name: &str) -> ContainerRef {
    let pod = PodRef { namespace: "default".into(), name: name.into(), uid: name.into() };
    ContainerRef { pod, container: "main".into(), attempt: 0 }
}

#[test]
fn devices_are_given_to_one_container_each() {
    let mut bench = asking("1");
    bench.target.devices = vec![tty(1, false), tty(0, false)];
    assert_eq!(given(&bench), [0]);
    bench.observed.devices = [(other("b"), vec!["/dev/ttyUSB0".into()])].into();
    assert_eq!(given(&bench), [1]);
    bench.target.devices = vec![tty(0, false)];
    let waiting = bench.web().state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("DeviceUnavailable"));
    assert_eq!(waiting.message.as_deref(), Some("0 of 1 kith.dev/ttyUSB are free, and the container needs 1"));
    bench.target.devices = vec![tty(0, true)];
    assert_eq!(given(&bench), [0], "a shared device is everybody's");
    bench.target.devices.clear();
    assert!(bench.web().state.unwrap().waiting.unwrap().message.unwrap().contains("no kith.dev/ttyUSB is plugged in"));
}

#[test]
fn a_container_gets_the_same_device_again() {
    let mut bench = asking("1");
    bench.target.devices = vec![tty(0, false), tty(1, false)];
    let pod = PodRef { namespace: "default".into(), name: "web-1".into(), uid: "u1".into() };
    let before = ContainerRef { pod, container: "web".into(), attempt: 0 };
    bench.exited(0, exit(0, 0, 1));
    bench.now = NOW.plus(Duration::from_mins(1));
    bench.observed.devices = [(before, vec!["/dev/ttyUSB1".into()])].into();
    assert_eq!(given(&bench), [1]);
    // Two that start at once do not get the same one.
    let mut bench = asking("1");
    bench.target.devices = vec![tty(0, false), tty(1, false)];
    let mut second = bench.target.pods[0].clone();
    second.pod.metadata.uid = Some("u2".into());
    second.pod.metadata.name = Some("web-2".into());
    bench.target.pods.push(second);
    let mut sandbox = shelter(None);
    (sandbox.pod.uid, sandbox.pod.name) = ("u2".into(), "web-2".into());
    bench.observed.sandboxes.push(sandbox);
    let all: Vec<u32> = bench
        .decide()
        .actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Start(spec) => Some(spec.devices[0].minor),
            _ => None,
        })
        .collect();
    assert_eq!(all, [0, 1]);
}

#[test]
fn what_is_plugged_in_is_counted_and_what_is_pulled_out_is_told() {
    let found = [tty(0, false), tty(1, false)];
    assert_eq!(capacity(&found), [("kith.dev/ttyUSB".to_owned(), 2)].into());
    assert_eq!(capacity(&[tty(0, true)]), [("kith.dev/ttyUSB".to_owned(), 100)].into());
    let held = [(other("b"), vec!["/dev/ttyUSB0".into()])].into();
    assert_eq!(lost(&found, &found[1..], &held), [(other("b"), "/dev/ttyUSB0".into())]);
    assert_eq!(lost(&found, &found[..1], &held), []);
}

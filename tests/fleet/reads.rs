//! What readers and watchers are owed when leaders change, stop, or are faster than they.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Fleet, wait_for};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configmap(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}})
}

/// Writes until it is acknowledged, and returns the object's `resourceVersion`.
fn put(fleet: &Fleet, device: &str, name: &str, value: &str) -> String {
    let object = configmap(name, value);
    let path = format!("{CONFIGMAPS}/{name}");
    let answer = wait_for(&format!("an acknowledged write of {name}"), || {
        let made = fleet.request(device, "POST", CONFIGMAPS, Some(&object)).ok()?;
        let answer = if made.status == 409 { fleet.request(device, "PUT", &path, Some(&object)).ok()? } else { made };
        matches!(answer.status, 200 | 201).then_some(answer)
    });
    answer.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn agent_pid(fleet: &Fleet, device: &str) -> Pid {
    let text = std::fs::read_to_string(fleet.file(device, "agent.pid")).unwrap();
    Pid::from_raw(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Opens a watch of all config maps and reads no further than its head.
fn watch(fleet: &Fleet, device: &str, query: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(fleet.file(device, "run/kith.sock")).unwrap();
    stream.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    write!(stream, "GET {CONFIGMAPS}?watch=1&{query} HTTP/1.1\r\nhost: kith\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the watch ended in its head");
    }
    reader
}

/// The next event of a watch; `None` when it is over. Frames of the chunked body are passed over.
fn next_event(watch: &mut BufReader<UnixStream>) -> Option<Value> {
    loop {
        let mut line = String::new();
        if watch.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.starts_with('{') {
            return serde_json::from_str(&line).ok();
        }
    }
}

#[test]
fn a_watch_goes_on_at_another_device_when_the_leader_is_gone() {
    let fleet = Fleet::up("f-watch", 3);
    let leader = fleet.leader("d1").unwrap();
    let others: Vec<&str> = ["d1", "d2", "d3"].into_iter().filter(|device| *device != leader).collect();
    put(&fleet, &leader, "before", "1");
    let mut first = watch(&fleet, &leader, "timeoutSeconds=600");
    let mut seen = next_event(&mut first).unwrap();
    while seen["object"]["metadata"]["name"] != "before" {
        seen = next_event(&mut first).unwrap();
    }
    fleet.dev(&["kill", &leader]);
    assert!(std::iter::from_fn(|| next_event(&mut first)).last().is_none(), "the watch ends with its device");
    let last = put(&fleet, others[0], "after-0", "1");
    for number in 1..20 {
        put(&fleet, others[number % 2], &format!("after-{number}"), "1");
    }
    for device in others {
        // From where the dead leader's watch stood: everything since, in order, once.
        let revision = seen["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        let mut resumed = watch(&fleet, device, &format!("resourceVersion={revision}&timeoutSeconds=60"));
        for number in 0..20 {
            let event = next_event(&mut resumed).unwrap();
            let found = (&event["type"], &event["object"]["metadata"]["name"]);
            assert_eq!(found, (&json!("ADDED"), &json!(format!("after-{number}"))), "{device}");
            if number == 0 {
                assert_eq!(event["object"]["metadata"]["resourceVersion"], json!(last), "{device}");
            }
        }
    }
}

#[test]
fn a_leader_that_was_stopped_serves_no_old_state_as_the_current_one() {
    let fleet = Fleet::up("f-stop", 3);
    let old = fleet.leader("d1").unwrap();
    let other = if old == "d1" { "d2" } else { "d1" };
    put(&fleet, &old, "lamp", "old");
    let pid = agent_pid(&fleet, &old);
    for round in 0..3 {
        let value = format!("new-{round}");
        kill(pid, Signal::SIGSTOP).unwrap();
        // Asked while it is stopped: this is the first thing that it does when it goes on.
        let mut asked = UnixStream::connect(fleet.file(&old, "run/kith.sock")).unwrap();
        write!(asked, "GET {CONFIGMAPS}/lamp HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n\r\n").unwrap();
        put(&fleet, other, "lamp", &value);
        kill(pid, Signal::SIGCONT).unwrap();
        let mut answer = String::new();
        asked.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.contains(&value) || head.to_lowercase().contains("warning:"), "{answer}");
    }
    fleet.wait_same_hash(&["d1", "d2", "d3"]);
}

/// Resident memory that is the process's alone, in KiB.
fn private_kib(pid: Pid) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[test]
fn a_watcher_that_reads_nothing_costs_little_and_learns_that_it_missed_something() {
    const WRITES: usize = 10_000;
    const LANES: usize = 16;
    const BODY: usize = 8 << 10;
    /// What a busy agent may have in memory, with its log and its events: not what passed through it.
    const LIMIT_KIB: u64 = 24 << 10;
    let fleet = Fleet::up("f-slow", 1);
    let pid = agent_pid(&fleet, "d1");
    let write_all = |writes: usize| {
        std::thread::scope(|scope| {
            for lane in 0..LANES {
                let fleet = &fleet;
                scope.spawn(move || {
                    let mut stream = UnixStream::connect(fleet.file("d1", "run/kith.sock")).unwrap();
                    let mut answers = BufReader::new(stream.try_clone().unwrap());
                    for number in 0..writes / LANES {
                        let object = configmap(&format!("lane-{lane}"), &format!("{number:>BODY$}"));
                        let (method, path) = if number == 0 { ("POST", CONFIGMAPS.into()) } else { ("PUT", format!("{CONFIGMAPS}/lane-{lane}")) };
                        let body = object.to_string();
                        write!(stream, "{method} {path} HTTP/1.1\r\nhost: kith\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                        read_answer(&mut answers);
                    }
                });
            }
        });
    };
    write_all(LANES * 20);
    let mut slow = watch(&fleet, "d1", "timeoutSeconds=600");
    let before = private_kib(pid);
    write_all(WRITES);
    let after = private_kib(pid);
    assert!(after < before + LIMIT_KIB, "the agent grew from {before} to {after} KiB");
    let mut events = 0;
    let last = std::iter::from_fn(|| next_event(&mut slow)).inspect(|_| events += 1).last().unwrap();
    assert!(events < WRITES / 4, "{events} events were kept for who did not read");
    // A client that took nothing for very long is cut off in the middle, so it may get no last word.
    if last["type"] == "ERROR" {
        assert_eq!(last["object"]["code"], 410, "{last}");
    }
    assert_eq!(next_event(&mut slow), None);
}

/// Reads one answer with a length and throws it away.
fn read_answer(answers: &mut BufReader<UnixStream>) {
    let (mut length, mut line) = (0, String::new());
    while line != "\r\n" {
        line.clear();
        assert_ne!(answers.read_line(&mut line).unwrap(), 0, "the agent hung up");
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).unwrap();
}

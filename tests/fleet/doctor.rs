//! `kith doctor` and `kith status --settings` beside real agents: well, killed, misconfigured.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::harness::{Fleet, wait_for};

/// What a check finds on a device, and whether all of them ended without a problem.
fn doctor(fleet: &Fleet, device: &str, check: &str) -> (Value, bool) {
    let output = fleet.exec(device, &["kith", "doctor", "--json", check]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (findings.into_iter().next().unwrap(), output.status.success())
}

fn outcome(fleet: &Fleet, device: &str, check: &str) -> String {
    let (finding, without_problem) = doctor(fleet, device, check);
    let outcome = finding["outcome"].as_str().unwrap().to_owned();
    assert_eq!(without_problem, outcome != "problem", "{finding}");
    outcome
}

fn origin(fleet: &Fleet, device: &str, key: &str) -> (String, String) {
    let settings: Vec<Value> =
        serde_json::from_str(&fleet.kith(device, &["status", "--settings", "-o", "json"])).unwrap();
    let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
    (setting["value"].as_str().unwrap().to_owned(), setting["origin"].as_str().unwrap().to_owned())
}

/// Who may use the socket of d1: its mode, and its group.
fn socket(fleet: &Fleet) -> (u32, u32) {
    let known = std::fs::metadata(fleet.file("d1", "run/kith.sock")).unwrap();
    (known.mode() & 0o777, known.gid())
}

#[test]
fn the_doctor_sees_a_fleet_that_is_well_and_what_breaks_in_it() {
    let fleet = Fleet::up_with("t-doctor", 2, &["device_profiles=[\"tiny\"]"]);
    for check in
        ["agent-runs", "port-peers", "port-api", "peers", "keys", "key-matches", "store", "overlayfs", "nftables"]
    {
        assert_eq!(outcome(&fleet, "d1", check), "ok", "{check}: {:?}", doctor(&fleet, "d1", check));
    }
    wait_for("a certificate", || (outcome(&fleet, "d1", "certificate") == "ok").then_some(()));

    // The settings that the running agent has, and where they came from.
    assert_eq!(origin(&fleet, "d1", "max_pods"), ("16".into(), "profile tiny".into()));
    assert_eq!(origin(&fleet, "d1", "standbys").1, "default");
    assert_eq!(fleet.get("d1", "/api/v1/nodes/d1")["status"]["capacity"]["pods"], "16");

    // New settings are taken by the same process; bad ones are named, and the agent goes on.
    let file = fleet.file("d1", "agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(socket(&fleet), (0o600, 0), "root's alone");
    std::fs::write(&file, format!("pids_limit = 99\nsocket_group = \"daemon\"\n{text}")).unwrap();
    let pid = std::fs::read_to_string(fleet.file("d1", "agent.pid")).unwrap();
    let pid = pid.split_whitespace().next().unwrap().to_owned();
    let hangup = || assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    hangup();
    // Of the agent itself: the command would show the file's while none answers.
    wait_for("the socket to be the group's too, and nobody else's", || (socket(&fleet) == (0o660, 1)).then_some(()));
    wait_for("the new settings", || {
        fleet.request("d1", "GET", "/kith/v1/settings", None).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(origin(&fleet, "d1", "pids_limit"), ("99".into(), format!("{}:1", file.display())));
    std::fs::write(&file, format!("pids_limit = 98\nnmae = \"x\"\n{text}")).unwrap();
    hangup();
    wait_for("the mistake in the log", || {
        fleet.agent_log("d1").contains("agent.toml:2: nmae is not a setting").then_some(())
    });
    let (finding, _) = doctor(&fleet, "d1", "settings");
    assert!(
        finding["outcome"] == "problem" && finding["seen"].as_str().unwrap().contains("did you mean name?"),
        "{finding}"
    );
    std::fs::write(&file, &text).unwrap();

    // A device that is off, and an agent that does not run.
    fleet.dev(&["kill", "d2"]);
    let (finding, _) = doctor(&fleet, "d1", "peers");
    assert!(finding["outcome"] == "problem" && finding["seen"].as_str().unwrap().contains("d2"), "{finding}");
    assert_eq!(outcome(&fleet, "d2", "agent-runs"), "problem");
    let (finding, _) = doctor(&fleet, "d2", "peers");
    assert_eq!(finding["outcome"], "ok", "the enrolment knows where to ask: {finding}");
    let whole = fleet.exec("d2", &["kith", "doctor", "-a"]);
    assert_eq!(whole.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&whole.stdout).contains("agent-runs: it does not run"));
}

//! Links that carry in one direction only, and links that come and go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::{Fleet, wait_for};
use crate::ledger::{self, Writer};

const DEVICES: [&str; 3] = ["d1", "d2", "d3"];

/// How long a link flaps.
const FLAPPING: Duration = Duration::from_mins(2);

/// Drops what comes into a device from others, or what it sends to them.
fn block(fleet: &Fleet, device: &str, hook: &str, who: &str) {
    let field = if hook == "input" { "saddr" } else { "daddr" };
    let rules = format!(
        "add table ip faults; add chain ip faults {hook} {{ type filter hook {hook} priority 0; }}; \
         add rule ip faults {hook} ip {field} {who} drop"
    );
    let done = fleet.exec(device, &["nft", &rules]);
    assert!(done.status.success(), "nft (install nftables): {}", String::from_utf8_lossy(&done.stderr));
}

fn unblock(fleet: &Fleet, device: &str) {
    let done = fleet.exec(device, &["nft", "delete table ip faults"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Everyone on the fleet's network.
const EVERYONE: &str = "10.77.0.0/24";

fn address(device: &str) -> String {
    format!("10.77.0.{}", 10 + device[1..].parse::<u32>().unwrap())
}

/// A leader that the others hear and that hears nobody, and then one that hears and is not heard.
#[test]
fn a_leader_with_a_one_way_link_is_replaced_and_serves_nothing_stale() {
    let seed = ledger::seed("a_leader_with_a_one_way_link");
    let fleet = Fleet::up("t-oneway", 3);
    let mut writers = vec![Writer::new(&fleet, 0, &DEVICES, seed)];
    for hook in ["input", "output"] {
        let lane = writers.len();
        let old = fleet.leader("d1").unwrap();
        let others: Vec<&str> = DEVICES.into_iter().filter(|device| *device != old).collect();
        let mut writer = Writer::new(&fleet, lane, &others, seed);
        writer.step();
        block(&fleet, &old, hook, EVERYONE);
        let since = Instant::now();
        wait_for("a new leader", || {
            fleet.leader(others[0]).filter(|leader| *leader != old && fleet.status(others[0])["quorum"] == true)
        });
        writer.step();
        println!("{old} without {hook}: a client went on {:?} after the cut", since.elapsed());
        for _ in 0..5 {
            writer.look(&old);
            writer.step();
        }
        unblock(&fleet, &old);
        fleet.wait_same_hash(&DEVICES);
        writers.push(writer);
    }
    ledger::settle(&fleet, &DEVICES, &writers);
}

/// A follower that does not hear the leader, or is not heard by it, unseats nobody.
#[test]
fn a_follower_with_a_one_way_link_unseats_nobody_and_catches_up() {
    let seed = ledger::seed("a_follower_with_a_one_way_link");
    let fleet = Fleet::up("t-oneway2", 3);
    let mut writers = Vec::new();
    let leader = fleet.leader("d1").unwrap();
    let [deaf, third] = DEVICES.into_iter().filter(|device| *device != leader).collect::<Vec<_>>()[..] else {
        unreachable!("three devices")
    };
    let term = |device: &str| fleet.status(device)["term"].as_u64().unwrap();
    let before = term(&leader);
    for (hook, who) in [("input", EVERYONE.to_owned()), ("output", EVERYONE.to_owned()), ("input", address(&leader))] {
        let mut writer = Writer::new(&fleet, writers.len(), &[&leader, third], seed);
        block(&fleet, deaf, hook, &who);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) {
            writer.step();
        }
        writer.look(deaf);
        unblock(&fleet, deaf);
        fleet.wait_same_hash(&DEVICES);
        writers.push(writer);
    }
    assert_eq!((fleet.leader(third), term(&leader)), (Some(leader.clone()), before), "the leader was unseated");
    ledger::settle(&fleet, &DEVICES, &writers);
}

/// Packets of agents over a device's link, both directions.
fn packets(fleet: &Fleet, device: &str) -> u64 {
    let listed = fleet.exec(device, &["nft", "-j", "list counters table ip seen"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("counters");
    let counters = listed["nftables"].as_array().unwrap().iter().filter_map(|item| item["counter"]["packets"].as_u64());
    counters.sum()
}

/// The leader's heartbeats are 15 seconds apart, and a learner that has all there is gets none of
/// them; what is written reaches it at once all the same.
#[test]
fn a_metered_link_carries_nothing_while_nothing_happens() {
    let fleet = Fleet::up_with("t-metered", 2, &["profile=\"metered\"", "lost_after_seconds=600"]);
    let leader = fleet.leader("d1").unwrap();
    let learner = if leader == "d1" { "d2" } else { "d1" };
    let seed = ledger::seed("a_metered_link");
    let mut writer = Writer::new(&fleet, 0, &[&leader], seed);
    writer.step();
    fleet.wait_same_hash(&["d1", "d2"]);
    let rules = "add table ip seen; add counter ip seen in; add counter ip seen out; \
         add chain ip seen input { type filter hook input priority 0; }; \
         add rule ip seen input udp dport 7443 counter name in; \
         add chain ip seen output { type filter hook output priority 0; }; \
         add rule ip seen output udp sport 7443 counter name out";
    assert!(fleet.exec(learner, &["nft", rules]).status.success(), "nft: install nftables");
    // What the questions above left behind is over within one heartbeat.
    std::thread::sleep(Duration::from_secs(16));
    let before = packets(&fleet, learner);
    std::thread::sleep(Duration::from_secs(32));
    assert_eq!(packets(&fleet, learner) - before, 0, "packets in more than two heartbeats' time");
    writer.step();
    let since = Instant::now();
    fleet.wait_same_hash(&["d1", "d2"]);
    println!("written and there after {:?}", since.elapsed());
    ledger::settle(&fleet, &["d1", "d2"], &[writer]);
}

#[test]
fn a_link_that_flaps_each_second_changes_the_leader_at_most_once_a_minute() {
    let seed = ledger::seed("a_link_that_flaps");
    let fleet = Fleet::up("t-flap", 3);
    let flapping = fleet.leader("d1").unwrap();
    let others: Vec<&str> = DEVICES.into_iter().filter(|device| *device != flapping).collect();
    let mut writer = Writer::new(&fleet, 0, &others, seed);
    let mut leaders = vec![flapping.clone()];
    let mut terms = BTreeSet::new();
    let since = Instant::now();
    let mut connected = true;
    while since.elapsed() < FLAPPING {
        fleet.dev(&[if connected { "cut" } else { "heal" }, &flapping]);
        connected = !connected;
        let turn = Instant::now();
        while turn.elapsed() < Duration::from_secs(1) {
            writer.step();
            let status = fleet.status(others[0]);
            terms.insert(status["term"].as_u64().unwrap());
            if let Some(leader) = status["leader"].as_str()
                && leaders.last().is_none_or(|last| last != leader)
            {
                leaders.push(leader.to_owned());
            }
        }
    }
    if !connected {
        fleet.dev(&["heal", &flapping]);
    }
    println!("leaders: {leaders:?}, terms: {terms:?}, {} writes", writer.written());
    let minutes = usize::try_from(FLAPPING.as_secs() / 60).unwrap();
    assert!(leaders.len() - 1 <= minutes, "more than a change of leader a minute: {leaders:?}");
    ledger::settle(&fleet, &DEVICES, &[writer]);
}

use std::time::Duration;

use super::*;
use crate::reconciler::eviction::{
    ContainerUsage, Left, PodUsage, Pressure, Share, Short, Shortage, Thresholds, overuse, shortages, victim,
};

const MIB: u64 = 1 << 20;

fn pod(uid: &str, spec: &Value) -> Pod {
    let mut whole = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {"nodeName": "a", "containers": [{"name": "main", "image": "web:1"}]}, "status": {"phase": "Running"}});
    merge(&mut whole["spec"], spec);
    serde_json::from_value(whole).unwrap()
}

fn using(memory: u64, disk: u64) -> PodUsage {
    let usage = ContainerUsage { memory: memory * MIB, disk: disk * MIB, inodes: 1 };
    PodUsage { containers: [("main".to_owned(), usage)].into(), ..PodUsage::default() }
}

fn chosen(pods: &[Pod], usage: &[(&str, PodUsage)], short: Short) -> Option<String> {
    let usage = usage.iter().map(|(uid, used)| ((*uid).to_owned(), used.clone())).collect();
    let shortage = Shortage { short, threshold: 100 * MIB, available: 50 * MIB };
    victim(pods.iter(), &usage, &shortage).map(|eviction| eviction.uid)
}

#[test]
fn who_uses_more_than_was_asked_for_goes_first_then_low_priority_then_the_largest() {
    let asks = |memory: &str| json!({"containers": [{"name": "main", "image": "web:1", "resources": {"requests": {"memory": memory}}}]});
    let modest = pod("modest", &asks("100Mi"));
    let greedy = pod("greedy", &asks("10Mi"));
    let hungry = pod("hungry", &asks("10Mi"));
    let usage = [("modest", using(90, 0)), ("greedy", using(20, 0)), ("hungry", using(40, 0)), ("vip", using(80, 0))];
    assert_eq!(chosen(&[modest.clone(), greedy.clone(), hungry.clone()], &usage, Short::Memory).unwrap(), "hungry");
    let vip = pod("vip", &json!({"priority": 10}));
    assert_eq!(chosen(&[vip.clone(), greedy.clone()], &usage, Short::Memory).unwrap(), "greedy");
    assert_eq!(chosen(&[vip.clone(), modest.clone()], &usage, Short::Memory).unwrap(), "vip");
    assert_eq!(chosen(&[modest], &usage, Short::Memory).unwrap(), "modest");
    let critical = pod("vip", &json!({"priorityClassName": "system-node-critical"}));
    assert_eq!(chosen(&[critical], &usage, Short::Memory), None);
    // One that is over, or uses nothing of it, helps nobody.
    let mut ended = vip;
    ended.status.as_mut().unwrap().phase = Some("Failed".into());
    assert_eq!(chosen(&[ended, greedy.clone()], &[("vip", using(80, 0))], Short::Memory), None);
    assert_eq!(chosen(&[greedy], &[("greedy", using(80, 0))], Short::Disk), None);
}

#[test]
fn the_message_is_kubernetes_own() {
    let usage = [("a".to_owned(), using(30, 0))].into();
    let shortage = Shortage { short: Short::Memory, threshold: 100 * MIB, available: 50 * MIB + 1 };
    let eviction = victim([pod("a", &json!({}))].iter(), &usage, &shortage).unwrap();
    assert_eq!(
        eviction.message,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51201Ki. Container main was using \
         30Mi, request is 0, has larger consumption of memory. "
    );
}

#[test]
fn shortages_are_told_with_what_there_should_be() {
    let thresholds =
        Thresholds { memory_available: 100, disk_percent: 10, inodes_percent: 5, pressure: Duration::from_mins(1) };
    let share = |available, total| Share { available, total };
    let left = Left { memory: share(100, 1000), disk: share(1000, 10_000), inodes: share(500, 10_000) };
    assert_eq!(shortages(&left, &thresholds), []);
    let left = Left { memory: share(99, 1000), disk: share(999, 10_000), inodes: share(499, 10_000) };
    let found: Vec<Short> = shortages(&left, &thresholds).iter().map(|shortage| shortage.short).collect();
    assert_eq!(found, [Short::Memory, Short::Disk, Short::Inodes]);
    assert_eq!(shortages(&left, &thresholds)[1].threshold, 1000);
    assert_eq!(shortages(&left, &Thresholds::default()), []);
    // What could not be measured is not short.
    assert_eq!(shortages(&Left::default(), &thresholds), []);
}

#[test]
fn a_shortage_that_passed_counts_for_a_while() {
    let thresholds = Thresholds { pressure: Duration::from_mins(1), ..Thresholds::default() };
    let shortage = Shortage { short: Short::Inodes, threshold: 2, available: 1 };
    let pressure = Pressure::default().after(&[shortage], NOW);
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    assert_eq!(pressure.after(&[], later(30)).holds(&thresholds, later(59)), (false, true));
    assert_eq!(pressure.holds(&thresholds, later(60)), (false, false));
    assert_eq!(pressure.after(&[shortage], later(59)).holds(&thresholds, later(100)), (false, true));
}

#[test]
fn more_than_a_limit_of_the_disk_is_too_much() {
    let limited = json!({"containers": [{"name": "main", "image": "web:1",
        "resources": {"limits": {"ephemeral-storage": "10Mi"}}}],
        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "4Mi"}}, {"name": "free", "emptyDir": {}}]});
    let pod = pod("a", &limited);
    let with = |disk: u64, cache: u64, free: u64| {
        let volumes = [("cache".to_owned(), cache * MIB), ("free".to_owned(), free * MIB)].into();
        overuse(&pod, &PodUsage { volumes, ..using(0, disk) })
    };
    assert_eq!(with(10, 0, 0), None);
    assert_eq!(with(1, 4, 5), None);
    assert_eq!(with(11, 0, 0).unwrap(), "Container main exceeded its local ephemeral storage limit \"10Mi\". ");
    assert_eq!(with(0, 5, 0).unwrap(), "Usage of EmptyDir volume \"cache\" exceeds the limit \"4Mi\". ");
    let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
    assert_eq!(with(5, 4, 2).unwrap(), whole);
}

#[test]
fn an_evicted_pod_is_killed_at_once_and_reported_as_failed() {
    let mut bench = Bench::with(&json!({}));
    bench.running(0);
    bench.store();
    bench.target.evicted.insert("u1".into(), "too large".into());
    assert_eq!(bench.words(), ["Kill u1-web-0", "report web-1 at 7", "event Evicted"]);
    let status = bench.store();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(status.message.as_deref(), Some("too large"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(!container.ready && container.state.as_ref().unwrap().terminated.is_some());
    // It is told once; what is left is killed until it is gone.
    assert_eq!(bench.words(), ["Kill u1-web-0"]);
    bench.observed.containers.clear();
    bench.exited(0, exit(137, 0, 1));
    assert_eq!(bench.words(), ["remove u1-web-0", "unshelter web-1"]);
}

use std::time::Duration;

use super::super::sandbox::{HostAlias, Protocol, PublishedPort, SandboxSpec, sandbox_spec};
use super::*;

fn own_network(extra: &Value) -> Bench {
    let mut whole = json!({"spec": {"hostNetwork": false}});
    merge(&mut whole, extra);
    let mut bench = Bench::with(&whole);
    bench.observed.sandboxes.clear();
    bench
}

fn spec_of(extra: &Value) -> Result<SandboxSpec, String> {
    let bench = own_network(extra);
    sandbox_spec(&web_ref(), &bench.target.pods[0].pod, &bench.target.node)
}

#[test]
fn a_sandbox_comes_before_the_first_container_and_goes_after_the_last() {
    let mut bench = own_network(&json!({}));
    assert_eq!(bench.words(), ["shelter web-1"]);
    bench.shelter();
    let decision = bench.decide();
    let Some(Action::Start(spec)) = decision.actions.first() else { panic!("{decision:?}") };
    assert_eq!(spec.namespaces.network, Namespace::At("/run/kith/pods/u1/net".into()));
    assert_eq!(spec.sandbox.as_deref(), Some(std::path::Path::new("/run/kith/pods/u1")));
    bench.running(0);
    let status = bench.store();
    assert_eq!((status.host_ip.as_deref(), status.pod_ip.as_deref()), (Some("10.0.0.1"), Some("10.42.1.2")));
    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(NOW.to_kubernetes());
    assert_eq!(bench.words(), ["Ask u1-web-0", "event Killing"]);
    bench.observed.containers.clear();
    bench.exited(0, exit(0, 0, 1));
    assert_eq!(bench.words(), ["remove u1-web-0", "unshelter web-1"]);
    bench.observed.containers.clear();
    assert_eq!(bench.words(), ["unshelter web-1"], "a pod is over once its sandbox is gone");
    bench.shelter();
    assert_eq!(bench.words(), ["delete web-1 at 7"]);
}

#[test]
fn a_sandbox_that_can_not_be_made_is_told_of_and_tried_again() {
    let mut bench = own_network(&json!({}));
    let reason = "host port 80/TCP is taken".to_owned();
    let failed = SandboxState::Failed { at: NOW, reason: reason.clone() };
    bench.observed.sandboxes = vec![ObservedSandbox { pod: web_ref(), state: failed }];
    assert_eq!(bench.words(), ["report web-1 at 7"]);
    assert_eq!(bench.decide().wake_at, Some(NOW.plus(Duration::from_secs(5))));
    let waiting = bench.web().state.unwrap().waiting.unwrap();
    assert_eq!((waiting.reason.as_deref(), waiting.message), (Some("ContainerCreating"), Some(reason)));
    bench.now = NOW.plus(Duration::from_secs(5));
    let decision = bench.decide();
    let Some(Action::MakeSandbox { complaint, .. }) = decision.actions.first() else { panic!("{decision:?}") };
    assert_eq!((complaint.reason, complaint.warning), ("FailedCreatePodSandBox", true));
    bench.target.pods[0].pod.metadata.deletion_timestamp = Some(NOW.to_kubernetes());
    assert_eq!(bench.words(), ["delete web-1 at 7"], "nothing is left of one that failed");
}

#[test]
fn a_finished_pod_gives_its_address_back_and_remembers_it() {
    let mut bench = own_network(&json!({"spec": {"restartPolicy": "Never"}}));
    bench.shelter().running(0);
    bench.store();
    bench.observed.containers.clear();
    bench.exited(0, exit(0, 0, 1));
    assert_eq!(bench.store().phase.as_deref(), Some("Succeeded"));
    assert_eq!(bench.words(), ["unshelter web-1"]);
    bench.shelter();
    assert_eq!(bench.words(), Vec::<String>::new());
    assert_eq!(bench.target.pods[0].pod.status.as_ref().unwrap().pod_ip.as_deref(), Some("10.42.1.2"));
}

#[test]
fn a_sandbox_without_a_pod_goes_when_its_containers_have() {
    let mut bench = Bench::with(&json!({}));
    bench.running(0);
    bench.target.pods.clear();
    assert_eq!(bench.words(), ["Ask u1-web-0"]);
    bench.observed.containers.clear();
    assert_eq!(bench.words(), ["unshelter web-1"]);
}

#[test]
fn a_sandbox_is_what_the_pod_says() {
    let spec = spec_of(&json!({"spec": {"hostname": "web", "subdomain": "shop", "setHostnameAsFQDN": true,
        "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["db", "cache"]}],
        "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["lan"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]},
        "containers": [{"name": "web", "image": "web:1", "ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}]}]}}));
    let spec = spec.unwrap();
    assert_eq!(spec.hostname, "web.shop.default.svc.cluster.local");
    assert_eq!(spec.names, ["web.shop.default.svc.cluster.local", "web"]);
    let alias = HostAlias { address: "10.1.1.1".parse().unwrap(), names: vec!["db".into(), "cache".into()] };
    assert_eq!(spec.aliases, [alias]);
    assert!(!spec.resolver.as_device);
    assert_eq!(spec.resolver.options, ["ndots:2", "edns0"]);
    let tcp = PublishedPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, port: 80 };
    let here = Some([127, 0, 0, 1].into());
    let udp = PublishedPort { protocol: Protocol::Udp, host_ip: here, host_port: 53, port: 53 };
    assert_eq!(spec.ports, [tcp, udp]);
    assert!(!tcp.conflicts(&udp) && udp.conflicts(&PublishedPort { host_ip: None, port: 1, ..udp }));
    let on_host = spec_of(&json!({"spec": {"hostNetwork": true,
        "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}));
    let on_host = on_host.unwrap();
    assert_eq!((on_host.own_network, on_host.ports.len(), on_host.hostname.as_str()), (false, 0, "a"));
}

#[test]
fn what_can_not_be_is_named() {
    let long = "x".repeat(60);
    let error = spec_of(&json!({"spec": {"hostname": long, "subdomain": "shop", "setHostnameAsFQDN": true}}));
    assert!(error.unwrap_err().contains("the kernel keeps 64"));
    let error = spec_of(&json!({"spec": {"hostAliases": [{"ip": "nowhere"}]}})).unwrap_err();
    assert_eq!(error, "hostAliases: \"nowhere\" is not an IP address");
    let twice =
        json!([{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80, "hostIP": "1.2.3.4"}]);
    let twice = json!({"spec": {"containers": [{"name": "web", "image": "web:1", "ports": twice}]}});
    assert_eq!(spec_of(&twice).unwrap_err(), "hostPort 80/TCP is asked for twice");
}

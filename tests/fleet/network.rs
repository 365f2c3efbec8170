//! The network of pods as others see it: from outside, from the device, from pods; beside a firewall,
//! across the death of the agent, and after its end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, succeed, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// How long one attempt to reach somebody may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A pod of the demo's web server, whose port 8080 is published.
fn web(name: &str, host_port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "d1"}, "terminationGracePeriodSeconds": 1,
            "hostAliases": [{"ip": "10.9.8.7", "hostnames": ["printer"]}],
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/hello"],
                "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "ports": [{"containerPort": 8080, "hostPort": host_port},
                          {"containerPort": 5300, "hostPort": 53, "protocol": "UDP"}]}]}})
}

fn create(fleet: &Fleet, pod: &Value) {
    let answer = fleet.request("d1", "POST", PODS, Some(pod)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

fn running(fleet: &Fleet, name: &str) -> Value {
    wait_for(&format!("{name} to run"), || {
        let answer = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?;
        let running = answer.body["status"]["containerStatuses"][0]["state"]["running"].is_object();
        running.then_some(answer.body)
    })
}

/// The network namespace of a device, and that of a pod on d1.
fn device(fleet: &str, name: &str) -> PathBuf {
    kith::network::netns::path(&format!("kith-{fleet}-{name}"))
}

fn sandbox(fleet: &Fleet, pod: &Value) -> PathBuf {
    fleet.file("d1", "run/pods").join(pod["metadata"]["uid"].as_str().unwrap())
}

/// Runs something in a network namespace; sockets stay where they were opened.
fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(File::open(namespace).unwrap(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn page(namespace: &Path, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    inside(namespace, || {
        let mut stream = TcpStream::connect_timeout(&address, ATTEMPT).ok()?;
        stream.set_read_timeout(Some(ATTEMPT)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("hello from d1").then_some(text)
    })
}

fn reaches(what: &str, namespace: &Path, address: &str) {
    wait_for(what, || page(namespace, address));
}

/// Answers datagrams on a port of a namespace with the same and the sender's address.
fn echo_datagrams(namespace: &Path, port: u16, name: &'static str) {
    let socket = inside(namespace, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((count, sender)) = socket.recv_from(&mut buffer) {
            let text = format!("{name} {}", String::from_utf8_lossy(&buffer[..count]));
            let _ = socket.send_to(text.as_bytes(), sender);
        }
    });
}

fn answer_to(socket: &UdpSocket, to: &str) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(b"ping", to).ok()?;
    let mut buffer = [0; 100];
    let count = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn nft(fleet: &Fleet, args: &[&str]) -> String {
    let mut all = vec!["nft"];
    all.extend(args);
    let output = fleet.exec("d1", &all);
    assert!(output.status.success(), "nft {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn links(fleet: &Fleet) -> String {
    String::from_utf8_lossy(&fleet.exec("d1", &["cat", "/proc/net/dev"]).stdout).into_owned()
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let fleet = Fleet::up("t-net", 2);
    fleet.load_hello();
    let (d1, d2) = (device("t-net", "d1"), device("t-net", "d2"));
    create(&fleet, &web("web", 8000));
    let web_pod = running(&fleet, "web");
    let ip = web_pod["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.42.1."), "{ip}");
    assert_eq!(web_pod["status"]["hostIP"], "10.77.0.11");
    let pod = sandbox(&fleet, &web_pod).join("net");
    reaches("the port from outside", &d2, "10.77.0.11:8000");
    reaches("the port from the device itself", &d1, "127.0.0.1:8000");
    reaches("the port at the device's address", &d1, "10.77.0.11:8000");
    reaches("the pod from the device", &d1, &format!("{ip}:8080"));
    reaches("its own port by the device's address", &pod, "10.77.0.11:8000");
    assert!(page(&d2, "10.77.0.12:8000").is_none(), "only the device of the pod has the port");

    let mut other = web("other", 8001);
    other["spec"]["containers"][0]["ports"].as_array_mut().unwrap().pop();
    create(&fleet, &other);
    let other_pod = running(&fleet, "other");
    let other = sandbox(&fleet, &other_pod).join("net");
    reaches("one pod from another", &other, &format!("{ip}:8080"));
    reaches("a published port from another pod", &other, "10.77.0.11:8000");

    // Outside, a pod has its device's address.
    let listener = inside(&d2, || TcpListener::bind("0.0.0.0:9000").unwrap());
    let mut stream = inside(&pod, || TcpStream::connect_timeout(&"10.77.0.12:9000".parse().unwrap(), ATTEMPT)).unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from([10, 77, 0, 11]));
    stream.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    // What is not published is not reached from outside, even by who knows the way.
    succeed(std::process::Command::new("nsenter").arg(format!("--net={}", d2.display())).args([
        "busybox",
        "ip",
        "route",
        "add",
        "10.42.1.0/24",
        "via",
        "10.77.0.11",
    ]));
    assert!(page(&d2, &format!("{ip}:8080")).is_none(), "the pod's own address is closed to strangers");

    echo_datagrams(&pod, 5300, "web");
    let sender = inside(&d2, || UdpSocket::bind("0.0.0.0:0").unwrap());
    wait_for("datagrams from outside", || answer_to(&sender, "10.77.0.11:53").filter(|text| text == "web ping"));
    let local = inside(&d1, || UdpSocket::bind("0.0.0.0:0").unwrap());
    wait_for("datagrams from the device", || answer_to(&local, "127.0.0.1:53").filter(|text| text == "web ping"));
    // A sender that never pauses finds the pod that comes after.
    fleet.kith("d1", &["delete", "pod", "web"]);
    wait_for("web to be gone", || (fleet.pods("d1").len() == 1).then_some(()));
    create(&fleet, &web("web", 8000));
    let next = running(&fleet, "web");
    assert_ne!(next["status"]["podIP"].as_str(), Some(ip.as_str()), "an address rests");
    echo_datagrams(&sandbox(&fleet, &next).join("net"), 5300, "next");
    wait_for("the same sender at the next pod", || {
        answer_to(&sender, "10.77.0.11:53").filter(|text| text == "next ping")
    });
}

#[test]
fn containers_of_a_pod_share_what_they_should() {
    let fleet = Fleet::up("t-share", 1);
    fleet.load_hello();
    let mut pod = web("pair", 8000);
    let script = "until wget -qO- http://127.0.0.1:8080/; do sleep 0.2; done; hostname; cat /etc/hosts; \
                  grep -c kith /proc/net/dev; echo ip $POD_IP; echo shared > /dev/shm/x; readlink /proc/self/ns/ipc; sleep 1000";
    let mut second = pod["spec"]["containers"][0].clone();
    second["name"] = json!("second");
    second["command"] = json!(["/bin/sh", "-c", script]);
    second.as_object_mut().unwrap().remove("ports");
    pod["spec"]["containers"].as_array_mut().unwrap().push(second);
    pod["spec"]["hostname"] = json!("box");
    pod["spec"]["subdomain"] = json!("shed");
    create(&fleet, &pod);
    let pod = running(&fleet, "pair");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let logs = wait_for("what the second container says", || {
        let output = fleet.try_kith("d1", &["logs", "pair", "-c", "second"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("ipc:").then_some(text)
    });
    for part in ["hello from d1", "\nbox\n", "10.9.8.7\tprinter", &format!("ip {ip}\n"), &format!("{ip}\tbox.shed.")] {
        assert!(logs.contains(part), "{part:?} is not in {logs}");
    }
    assert!(logs.contains("\n0\n"), "links of the device are seen: {logs}");
    let folder = sandbox(&fleet, &pod);
    assert_eq!(std::fs::read_to_string(folder.join("shm/x")).unwrap(), "shared\n");
    for (id, pid, _) in fleet.containers("d1") {
        for kind in ["net", "ipc", "uts"] {
            use std::os::unix::fs::MetadataExt;
            let own = std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino();
            assert_eq!(own, std::fs::metadata(folder.join(kind)).unwrap().ino(), "{id} {kind}");
        }
    }
}

#[test]
fn a_connection_outlives_the_agent_and_a_firewall_comes_and_goes() {
    let fleet = Fleet::up("t-wall", 2);
    fleet.load_hello();
    let (d1, d2) = (device("t-wall", "d1"), device("t-wall", "d2"));
    let firewall = "table inet wall { chain input { type filter hook input priority 0; tcp dport 9999 drop; }; }";
    nft(&fleet, &[firewall]);
    let before = nft(&fleet, &["list", "table", "inet", "wall"]);
    let mut echo = web("echo", 7000);
    echo["spec"]["containers"][0]["command"] = json!(["nc", "-ll", "-p", "8080", "-e", "cat"]);
    create(&fleet, &echo);
    let pod = running(&fleet, "echo");
    let mut stream = wait_for("a connection", || {
        inside(&d2, || TcpStream::connect_timeout(&"10.77.0.11:7000".parse().unwrap(), ATTEMPT)).ok()
    });
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut says = |text: &[u8]| {
        stream.write_all(text).unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    says(b"before");
    let containers = fleet.containers("d1");
    fleet.dev(&["kill", "d1"]);
    says(b"while no agent runs");
    fleet.dev(&["start", "d1"]);
    wait_for("the agent", || fleet.request("d1", "GET", PODS, None).ok());
    says(b"with the next agent");
    assert_eq!(fleet.containers("d1"), containers);
    assert_eq!(running(&fleet, "echo")["status"]["podIP"], pod["status"]["podIP"]);

    // A firewall that is loaded anew often begins so.
    nft(&fleet, &["flush ruleset"]);
    nft(&fleet, &[firewall]);
    wait_for("the rules to be back", || nft(&fleet, &["list", "tables"]).contains("table ip kith").then_some(()));
    wait_for("a new connection", || {
        inside(&d2, || TcpStream::connect_timeout(&"10.77.0.11:7000".parse().unwrap(), ATTEMPT)).ok()
    });
    says(b"all the while");

    fleet.kith("d1", &["delete", "pod", "echo"]);
    wait_for("the pod to be gone", || fleet.pods("d1").is_empty().then_some(()));
    let sandboxes = std::fs::read_dir(fleet.file("d1", "run/pods")).unwrap().flatten();
    assert_eq!(sandboxes.filter(|entry| entry.path().is_dir()).count(), 0);
    assert!(!links(&fleet).contains("kith-"), "{}", links(&fleet));
    assert!(!nft(&fleet, &["list", "table", "ip", "kith"]).contains("dnat to"));
    assert_eq!(nft(&fleet, &["list", "table", "inet", "wall"]), before);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/t-wall/d1/run/pods/"), "{mounts}");
    assert!(inside(&d1, || TcpListener::bind("0.0.0.0:7000")).is_ok());
}

#[test]
fn a_port_that_is_taken_is_named_and_cleanup_leaves_nothing() {
    let fleet = Fleet::up("t-clean", 1);
    fleet.load_hello();
    let d1 = device("t-clean", "d1");
    nft(&fleet, &["table inet wall { chain input { type filter hook input priority 0; }; }"]);
    create(&fleet, &web("first", 8000));
    running(&fleet, "first");
    let unready = |name: &str, port: u16, why: &str| {
        let mut pod = web(name, port);
        pod["spec"].as_object_mut().unwrap().remove("nodeSelector");
        pod["spec"]["nodeName"] = json!("d1");
        pod["spec"]["containers"][0]["ports"].as_array_mut().unwrap().pop();
        create(&fleet, &pod);
        wait_for(&format!("an event of {name}"), || {
            let output = fleet.try_kith("d1", &["describe", "pod", name]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (text.contains("FailedCreatePodSandBox") && text.contains(why)).then_some(())
        });
    };
    unready("second", 8000, "pod default/first has it on this device");
    unready("api", 6443, "a program on the device listens there already");
    fleet.kith("d1", &["delete", "pod", "second", "api"]);

    fleet.dev(&["kill", "d1"]);
    let config = fleet.file("d1", "agent.toml");
    let said = fleet.exec("d1", &[KITH, "--config", config.to_str().unwrap(), "agent", "--cleanup"]);
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    for part in ["1 containers", "1 pods shared", "table kith", "bridge kith0", "ip_forward", "left the data"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(fleet.containers("d1"), []);
    assert!(!links(&fleet).contains("kith"), "{}", links(&fleet));
    assert_eq!(nft(&fleet, &["list", "tables"]).trim(), "table inet wall");
    let forwarding = inside(&d1, || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"));
    assert_eq!(forwarding.unwrap().trim(), "0");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/t-clean/"), "{mounts}");
    assert!(!fleet.file("d1", "run").exists());
    let again = fleet.exec("d1", &[KITH, "--config", config.to_str().unwrap(), "agent", "--cleanup"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("there was nothing to remove"));
    // And it begins again as if nothing had been.
    std::fs::create_dir_all(fleet.file("d1", "run")).unwrap();
    fleet.dev(&["start", "d1"]);
    running(&fleet, "first");
    wait_for("the port", || page(&d1, "127.0.0.1:8000"));
}

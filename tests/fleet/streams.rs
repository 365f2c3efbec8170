//! Going into pods: programs, ports, files and output, with `kith` and with kubectl of two releases,
//! asked of a device that runs the pod and of one that does not.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Megabytes of input, as a program that copies them sees them.
const INPUT: usize = 3 << 20;

/// A command line that reaches the fleet through d1.
pub struct Client {
    pub name: &'static str,
    pub argv: Vec<String>,
}

impl Client {
    pub fn all(fleet: &Fleet) -> Vec<Self> {
        let config = fleet.dir.join("kubeconfig");
        fs::write(&config, fleet.kith("d1", &["kubeconfig"])).unwrap();
        let kubectl = |name, release: &str| {
            let program = format!("{}/target/tools/kubectl-{release}", env!("CARGO_MANIFEST_DIR"));
            assert!(fs::exists(&program).unwrap(), "{program} is missing: run scripts/kubectl.sh");
            Self { name, argv: vec![program, "--kubeconfig".into(), config.display().to_string()] }
        };
        let settings = fleet.dir.join("d1/agent.toml").display().to_string();
        let kith = Self { name: "kith", argv: vec![KITH.into(), "--config".into(), settings] };
        vec![kith, kubectl("kubectl 1.20", "1.20"), kubectl("kubectl 1.32", "1.32")]
    }

    pub fn command(&self, fleet: &Fleet, args: &[&str]) -> Command {
        let argv: Vec<&str> = self.argv.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let mut command = fleet.inside("d1", &argv);
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, fleet: &Fleet, args: &[&str]) -> Output {
        self.command(fleet, args).output().unwrap()
    }

    pub fn done(&self, fleet: &Fleet, args: &[&str]) -> String {
        let output = self.run(fleet, args);
        assert!(output.status.success(), "{} {args:?}: {}", self.name, text(&output.stderr));
        text(&output.stdout)
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pod on a device; it serves its name on a port of its device's own loopback, and ticks.
fn pod(name: &str, device: &str, port: u16) -> Value {
    let script = format!(
        "mkdir -p /tmp/www; echo {name} > /tmp/www/index.html; httpd -f -p 127.0.0.1:{port} -h /tmp/www & \
         while :; do echo tick; echo tock >&2; sleep 1; done"
    );
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "nodeName": device, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script],
                "resources": {"limits": {"memory": "64Mi"}}}]}})
}

const PORT: u16 = 8765;

/// Two devices, with a pod on each.
fn fleet(name: &str) -> Fleet {
    let fleet = Fleet::up(name, 2);
    fleet.load_hello();
    for device in ["d1", "d2"] {
        let answer = fleet.request("d1", "POST", PODS, Some(&pod(&format!("on-{device}"), device, PORT))).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    for device in ["d1", "d2"] {
        wait_for("the pod to run", || {
            let answer = fleet.request("d1", "GET", &format!("{PODS}/on-{device}"), None).ok()?;
            (answer.body["status"]["containerStatuses"][0]["state"]["running"].is_object()).then_some(())
        });
    }
    fleet
}

const BOTH: [&str; 2] = ["on-d1", "on-d2"];

/// Whether a process with such a command line runs anywhere on this machine.
fn runs(argument: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line == format!("sleep\0{argument}\0").as_bytes()
    })
}

#[test]
fn programs_run_in_pods_of_any_device() {
    let fleet = fleet("t-exec");
    let input: Vec<u8> = (0..INPUT).map(|n| u8::try_from(n * 7919 % 251).unwrap()).collect();
    let expected = {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        text(&child.wait_with_output().unwrap().stdout)
    };
    for client in Client::all(&fleet) {
        for pod in BOTH {
            let about = format!("{} {pod}", client.name);
            let ended = client.run(&fleet, &["exec", pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
            assert_eq!((ended.status.code(), text(&ended.stdout).as_str()), (Some(7), "out\n"), "{about}: {ended:?}");
            assert!(text(&ended.stderr).starts_with("err\n"), "{about}: {ended:?}");

            let mut child = client
                .command(&fleet, &["exec", "-i", pod, "--", "sha256sum"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&input).unwrap();
            assert_eq!(text(&child.wait_with_output().unwrap().stdout), expected, "{about}");

            // A terminal has the size of the one that it is shown on.
            let inner: Vec<String> = client.argv.iter().map(|word| format!("'{word}'")).collect();
            let line = format!(
                "stty rows 33 cols 101; {} exec -it {pod} -- sh -c 'sleep 1; tty; stty size; exit 3'",
                inner.join(" ")
            );
            let shown = fleet.inside("d1", &["script", "-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
            let shown = shown.expect("install it first: apt-get install bsdutils");
            assert_eq!(shown.status.code(), Some(3), "{about}: {shown:?}");
            assert!(text(&shown.stdout).contains("/dev/pts/0\r\n33 101\r\n"), "{about}: {shown:?}");

            let missing = client.run(&fleet, &["exec", pod, "--", "nothing"]);
            assert_eq!(missing.status.code(), Some(1), "{about}");
            assert!(text(&missing.stderr).contains("no such program in the image"), "{about}: {missing:?}");
        }
        let nobody = client.run(&fleet, &["exec", "nobody", "--", "true"]);
        assert!(text(&nobody.stderr).contains("pods \"nobody\" not found"), "{nobody:?}");
    }
}

/// Waits for a line of a child's output that `wanted` takes.
fn line_of<T>(child: &mut Child, wanted: impl Fn(&str) -> Option<T>) -> T {
    use std::io::BufRead;
    let stdout = child.stdout.as_mut().unwrap();
    let mut lines = std::io::BufReader::new(stdout).lines();
    loop {
        let line = lines.next().expect("it goes on").unwrap();
        if let Some(found) = wanted(&line) {
            return found;
        }
    }
}

fn stop(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ports_lead_into_pods_of_any_device() {
    let fleet = fleet("t-ports");
    for client in Client::all(&fleet) {
        for pod in BOTH {
            let ports = format!(":{PORT}");
            let mut forward = client
                .command(&fleet, &["port-forward", &format!("pod/{pod}"), &ports])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let local =
                line_of(&mut forward, |line| Some(line.split_once("127.0.0.1:")?.1.split_once(' ')?.0.to_owned()));
            let url = format!("http://127.0.0.1:{local}/");
            // Several at once, and one after the other.
            for _ in 0..2 {
                let asked: Vec<Child> = (0..4)
                    .map(|_| {
                        let get = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).read())";
                        let mut command = fleet.inside("d1", &["python3", "-c", get, &url]);
                        command.stdout(Stdio::piped()).spawn().expect("install it first: apt-get install python3")
                    })
                    .collect();
                for child in asked {
                    let output = child.wait_with_output().unwrap();
                    assert!(text(&output.stdout).contains(pod), "{} {pod}: {output:?}", client.name);
                }
            }
            stop(forward);
        }
    }
}

#[test]
fn files_are_copied_and_output_is_attached_to() {
    let fleet = fleet("t-copy");
    let here = |name: &str| -> PathBuf { fleet.dir.join(name) };
    let folder = here("given");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("deep/bytes"), vec![7; 1 << 20]).unwrap();
    fs::write(folder.join("line"), "a line\n").unwrap();
    for (number, client) in Client::all(&fleet).into_iter().enumerate() {
        for pod in BOTH {
            let (to, back) = (format!("/tmp/in-{number}"), here(&format!("back-{number}-{pod}")));
            client.done(&fleet, &["cp", folder.to_str().unwrap(), &format!("{pod}:{to}")]);
            client.done(&fleet, &["cp", &format!("{pod}:{to}"), back.to_str().unwrap()]);
            assert_eq!(fs::read(back.join("deep/bytes")).unwrap(), vec![7; 1 << 20], "{} {pod}", client.name);
            assert_eq!(fs::read_to_string(back.join("line")).unwrap(), "a line\n", "{} {pod}", client.name);

            let mut attached = client.command(&fleet, &["attach", pod]).stdout(Stdio::piped()).spawn().unwrap();
            line_of(&mut attached, |line| (line == "tick").then_some(()));
            stop(attached);
        }
    }
    let missing = Client::all(&fleet)[0].run(&fleet, &["cp", "on-d2:/nothing", here("none").to_str().unwrap()]);
    assert!(!missing.status.success() && !here("none").exists(), "{missing:?}");
}

#[test]
fn who_is_gone_ends_the_other_side() {
    let fleet = fleet("t-gone");
    let clients = Client::all(&fleet);
    for (number, client) in clients.iter().enumerate() {
        // The client goes: the program ends, also where nothing would be read or written any more.
        for (pod, span) in BOTH.into_iter().zip(["52341", "52342"]) {
            let span = format!("{span}{number}");
            let child = client.command(&fleet, &["exec", pod, "--", "sleep", &span]).spawn().unwrap();
            wait_for("the program to run", || runs(&span).then_some(()));
            stop(child);
            wait_for("the program to be gone", || (!runs(&span)).then_some(()));
        }
    }
    // The agent of the pod's device is killed: every client hears so, and nothing is left.
    let children: Vec<(&Client, String, Child)> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let span = format!("62341{number}");
            let mut command = client.command(&fleet, &["exec", "on-d2", "--", "sleep", &span]);
            (client, span, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (_, span, _) in &children {
        wait_for("the program to run", || runs(span).then_some(()));
    }
    fleet.dev(&["kill", "d2"]);
    for (client, span, child) in children {
        let ended = child.wait_with_output().unwrap();
        // kubectl takes a SPDY connection that ended for the end of the program; it can not be told.
        let told = client.name != "kubectl 1.20";
        assert!(!told || (!ended.status.success() && !ended.stderr.is_empty()), "{}: {ended:?}", client.name);
        wait_for("the program to be gone", || (!runs(&span)).then_some(()));
    }
    fleet.dev(&["start", "d2"]);
    wait_for("the pod to be entered again", || {
        clients[0].run(&fleet, &["exec", "on-d2", "--", "true"]).status.success().then_some(())
    });
}

#[test]
fn what_pods_and_devices_use_is_shown() {
    let fleet = fleet("t-top");
    for client in Client::all(&fleet) {
        let shown = wait_for("figures of both pods", || {
            let output = client.run(&fleet, &["top", "pods"]);
            let shown = text(&output.stdout);
            (output.status.success() && BOTH.iter().all(|pod| shown.contains(pod))).then_some(shown)
        });
        assert!(shown.lines().skip(1).all(|line| line.trim_end().ends_with("Mi") && line.contains('m')), "{shown}");
        let nodes = client.done(&fleet, &["top", "nodes"]);
        let rows: Vec<&str> = nodes.lines().skip(1).collect();
        assert!(rows.len() == 2 && rows.iter().all(|row| row.matches('%').count() == 2), "{}: {nodes}", client.name);
    }
    let one = fleet.request("d1", "GET", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/on-d2", None).unwrap();
    assert_eq!((one.status, one.body["containers"][0]["name"].as_str()), (200, Some("c")), "{}", one.body);
}

#[test]
fn only_administrators_go_into_pods() {
    let fleet = fleet("t-strict");
    let plain = fleet.kith("d1", &["kubeconfig", "--user", "reader", "--group", "readers"]);
    let config = fleet.dir.join("reader");
    fs::write(&config, plain).unwrap();
    let program = format!("{}/target/tools/kubectl-1.32", env!("CARGO_MANIFEST_DIR"));
    let kubectl = [program.as_str(), "--kubeconfig", config.to_str().unwrap()];
    let ask = |args: &[&str]| fleet.inside("d1", &[&kubectl[..], args].concat()).stdin(Stdio::null()).output().unwrap();
    assert!(ask(&["get", "pods"]).status.success());
    for args in [&["exec", "on-d1", "--", "true"][..], &["attach", "on-d1"], &["port-forward", "on-d1", ":80"]] {
        let refused = if args[0] == "port-forward" {
            // It listens first, and asks when somebody connects; with no rights it ends at once.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            ask(&["port-forward", "on-d1", &format!("{free}:80")])
        } else {
            ask(args)
        };
        assert!(!refused.status.success(), "{args:?}: {refused:?}");
        assert!(text(&refused.stderr).contains("orbidden"), "{args:?}: {refused:?}");
    }
}

//! Talking to a container's own program, looking at it from another container, and ending it by force:
//! with `kith` and with kubectl of two releases, from the pod's device and from another.

use std::io::{Read, Write};
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Fleet, wait_for};
use crate::streams::{Client, text};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn create(fleet: &Fleet, name: &str, device: &str, script: &str, fields: &Value) {
    let mut container = json!({"name": "c", "image": "hello:1", "command": ["/bin/sh", "-c", script]});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": device, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [container]}});
    let answer = fleet.request("d1", "POST", PODS, Some(&pod)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    wait_for(&format!("{name} to run"), || {
        let pod = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?.body;
        pod["status"]["containerStatuses"][0]["state"]["running"].is_object().then_some(())
    });
}

/// Runs a command and types: each line once what it waits for was shown. On a terminal of 33 lines if
/// `tty`, else the input ends after the last one.
fn talk(fleet: &Fleet, client: &Client, args: &[&str], steps: &[(&str, &str)], tty: bool) -> Output {
    let words: Vec<&str> = client.argv.iter().map(String::as_str).chain(args.iter().copied()).collect();
    let line = format!("stty rows 33 cols 101 -echo; '{}'", words.join("' '"));
    let argv = if tty { vec!["script", "-qec", &line, "/dev/null"] } else { words.clone() };
    let mut command = fleet.inside("d1", &[&["timeout", "90"], &argv[..]].concat());
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.expect("install it first: apt-get install bsdutils");
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (awaited, typed) in steps {
        let mut piece = [0; 1024];
        while !text(&shown).contains(awaited) {
            let count = stdout.read(&mut piece).unwrap();
            assert!(count > 0, "{args:?} ended before {awaited:?}: {:?}", text(&shown));
            shown.extend_from_slice(&piece[..count]);
        }
        stdin.write_all(typed.as_bytes()).unwrap();
    }
    // A terminal's input ends with its program's.
    let held = tty.then_some(stdin);
    stdout.read_to_end(&mut shown).unwrap();
    drop(held);
    let ended = child.wait_with_output().unwrap();
    Output { stdout: shown, ..ended }
}

#[test]
fn a_program_is_talked_to_from_any_device() {
    let fleet = Fleet::up("t-attach", 2);
    fleet.load_hello();
    for device in ["d1", "d2"] {
        // Says its size once it is told one, and whatever is typed.
        let script = "while [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done; stty size; read x; echo got-$x; exit 5";
        for client in Client::all(&fleet) {
            let about = format!("{} {device}", client.name);
            let name = format!("tty-{device}");
            create(&fleet, &name, device, script, &json!({"stdin": true, "tty": true}));
            let said = talk(&fleet, &client, &["attach", "-it", &name], &[("33 101", "word\n")], true);
            assert!(text(&said.stdout).contains("33 101\r\n"), "{about}: {said:?}");
            assert!(text(&said.stdout).contains("got-word\r\n"), "{about}: {said:?}");
            // Its log went on, whoever was attached.
            assert!(client.done(&fleet, &["logs", &name]).contains("got-word"), "{about}");
            client.done(&fleet, &["delete", "pod", &name]);

            let name = format!("once-{device}");
            create(&fleet, &name, device, "cat; echo over", &json!({"stdin": true, "stdinOnce": true}));
            let said = talk(&fleet, &client, &["attach", "-i", &name], &[("", "some text\n")], false);
            assert_eq!(text(&said.stdout), "some text\nover\n", "{about}: {said:?}");
            client.done(&fleet, &["delete", "pod", &name]);
        }
    }
    // A pod for one command, with its input and its exit code.
    for client in Client::all(&fleet) {
        let mut words = vec!["run", "once", "--image=hello:1", "--restart=Never", "-i", "--rm", "--command", "--"];
        words.extend(["/bin/sh", "-c", "read x; echo got-$x; exit 7"]);
        let said = talk(&fleet, &client, &words, &[("", "input\n")], false);
        assert!(text(&said.stdout).contains("got-input\n"), "{}: {said:?}", client.name);
        assert_eq!(said.status.code(), Some(7), "{}: {said:?}", client.name);
        wait_for("the pod to go", || {
            (fleet.request("d1", "GET", &format!("{PODS}/once"), None).ok()?.status == 404).then_some(())
        });
    }
}

#[test]
fn a_shell_outlives_the_agent_of_its_device() {
    let fleet = Fleet::up("t-attach-kill", 1);
    fleet.load_hello();
    create(
        &fleet,
        "shell",
        "d1",
        "printf 'ready> '; while read x; do echo got-$x; done; echo over",
        &json!({"stdin": true, "tty": true}),
    );
    let before = fleet.containers("d1");
    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    wait_for("the agent to answer", || fleet.request("d1", "GET", PODS, None).ok());
    assert_eq!(fleet.containers("d1"), before, "the container was not restarted");
    let kith = Client::all(&fleet).remove(0);
    // The key that ends input, too.
    let said = talk(&fleet, &kith, &["attach", "-it", "shell"], &[("ready", "again\n"), ("got-again", "\u{4}")], true);
    assert!(text(&said.stdout).contains("got-again\r\n"), "{said:?}");
    assert!(text(&said.stdout).contains("over\r\n"), "{said:?}");

    create(&fleet, "deaf", "d1", "sleep 1000", &json!({}));
    for (args, part) in [(["attach", "-i", "deaf"], "stdin: true"), (["attach", "-t", "deaf"], "tty: true")] {
        let said = talk(&fleet, &kith, &args, &[], false);
        assert_eq!(said.status.code(), Some(3), "{said:?}");
        assert!(text(&said.stderr).contains(part), "{said:?}");
    }
}

#[test]
fn a_device_is_looked_at_where_its_settings_allow_it() {
    let allowed = ["host_paths=[\"/\"]", "security.allow_host_pid=true", "security.allow_host_ipc=true"];
    let fleet = Fleet::up_with("t-debug-node", 2, &allowed);
    fleet.load_hello();
    let agent = fleet.pid("d2");
    for client in Client::all(&fleet) {
        let script = format!("cat /proc/{agent}/comm; ls /host/var/lib/kith-dev/t-debug-node; read x; echo got-$x");
        let args = ["debug", "node/d2", "--image=hello:1", "-i", "--", "/bin/sh", "-c", &script];
        // The folder is listed after the program's name.
        let said = talk(&fleet, &client, &args, &[("d2\n", "word\n")], false);
        let shown = text(&said.stdout);
        assert!(shown.contains("kith\n") && shown.contains("got-word"), "{}: {said:?}", client.name);
        // `kith` takes away what it made. kubectl leaves that to its user, as with any Kubernetes.
        if client.name == "kith" {
            wait_for("the pod to go", || fleet.pods("d1").is_empty().then_some(()));
        } else {
            let name = crate::harness::name(&fleet.pods("d1")[0]).to_owned();
            client.done(&fleet, &["delete", "pod", &name]);
        }
    }
}

#[test]
fn a_device_that_does_not_allow_it_is_not_looked_at_and_says_which_setting_it_needs() {
    let fleet = Fleet::up("t-debug-not", 1);
    fleet.load_hello();
    let kith = Client::all(&fleet).remove(0);
    let args = ["debug", "node/d1", "--image=hello:1", "-i", "--", "/bin/sh"];
    let said = talk(&fleet, &kith, &args, &[], false);
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    let told = text(&said.stderr);
    assert!(told.contains("allow_host_pid = true") && told.contains("host_paths = [\"/\"]"), "{told}");
    wait_for("the pod to go", || fleet.pods("d1").is_empty().then_some(()));
    let unknown = talk(&fleet, &kith, &["debug", "node/d9", "--image=hello:1", "-i"], &[], false);
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("d9"), "{unknown:?}");
}

#[test]
fn a_running_pod_is_looked_at_from_another_container() {
    let fleet = Fleet::up("t-debug", 2);
    fleet.load_hello();
    for (round, client) in Client::all(&fleet).into_iter().enumerate() {
        let name = format!("looked-at-{round}");
        create(&fleet, &name, "d2", "sleep 4321", &json!({}));
        let script = "ps; read x; echo got-$x";
        let args = ["debug", &name, "--image=hello:1", "--target=c", "-c", "look", "-i", "--", "/bin/sh", "-c", script];
        let said = talk(&fleet, &client, &args, &[("sleep 4321", "word\n")], false);
        let shown = text(&said.stdout);
        assert!(shown.contains("sleep 4321") && shown.contains("got-word"), "{}: {said:?}", client.name);
        let pod = fleet.get("d1", &format!("{PODS}/{name}"));
        assert_eq!(pod["status"]["phase"], "Running", "{pod}");
        wait_for("its end to be told", || {
            let pod = fleet.get("d1", &format!("{PODS}/{name}"));
            let state = &pod["status"]["ephemeralContainerStatuses"][0]["state"];
            (state["terminated"]["exitCode"] == 0).then_some(())
        });
        // What was added stays as it is; nothing else of the pod is changed by this way.
        let path = format!("{PODS}/{name}/ephemeralcontainers");
        let mut changed = fleet.get("d1", &format!("{PODS}/{name}"));
        changed["spec"]["ephemeralContainers"][0]["image"] = json!("other:1");
        changed["spec"]["containers"][0]["image"] = json!("other:1");
        let refused = fleet.request("d1", "PUT", &path, Some(&changed)).unwrap();
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains("may not be changed"), "{}", refused.body);
        changed["spec"]["ephemeralContainers"][0]["image"] = json!("hello:1");
        let taken = fleet.request("d1", "PUT", &path, Some(&changed)).unwrap();
        assert_eq!(taken.body["spec"]["containers"][0]["image"], "hello:1", "{}", taken.body);

        // By force it goes at once, and its programs within moments; they ignore what asks them.
        let grace = if client.name == "kith" { &[][..] } else { &["--grace-period=0"] };
        client.done(&fleet, &[&["delete", "pod", &name, "--force"], grace].concat());
        assert_eq!(fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).unwrap().status, 404);
        wait_for("its containers to go", || fleet.containers("d2").is_empty().then_some(()));
    }
}

//! Pods whose images come from a registry: Debian's, inside a device's network. Needs Debian's
//! `docker-registry`.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const HOST: &str = "127.0.0.1:5050";

/// A registry in the network of `d1`.
pub struct Registry(Child);

impl Registry {
    fn start(fleet: &Fleet) -> Self {
        Self::listen(fleet, HOST)
    }

    /// Its log, with every request, is `registry.log` in the fleet's folder.
    pub fn listen(fleet: &Fleet, address: &str) -> Self {
        let config = fleet.dir.join("registry.yml");
        let data = fleet.dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(fleet.dir.join("registry.log")).unwrap();
        let name = fleet.dir.file_name().unwrap().to_str().unwrap();
        let child = Command::new(KITH)
            .args(["dev", "--fleet", name, "exec", "d1", "--", "docker-registry", "serve", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("apt-get install docker-registry");
        let (_, port) = address.rsplit_once(':').unwrap();
        let registry = Self(child);
        wait_for("the registry to answer", || {
            let answer = fleet.exec("d1", &["curl", "-sf", &format!("http://127.0.0.1:{port}/v2/")]);
            answer.status.success().then_some(())
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn create(fleet: &Fleet, name: &str, image: &str, policy: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "nodeName": "d1", "terminationGracePeriodSeconds": 0, "containers":
            [{"name": "c", "image": image, "imagePullPolicy": policy, "command": ["/bin/sleep", "1000"]}]}});
    let answer = fleet.request("d1", "POST", PODS, Some(&pod)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
}

fn wait_status(fleet: &Fleet, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{name} to be {what}"), || {
        let pod = fleet.request("d1", "GET", &format!("{PODS}/{name}"), None).ok()?.body;
        so(&pod["status"]["containerStatuses"][0]).then_some(pod)
    })
}

fn waits_with(fleet: &Fleet, name: &str, reason: &str) -> String {
    let pod = wait_status(fleet, name, reason, |status| status["state"]["waiting"]["reason"] == reason);
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

fn runs(fleet: &Fleet, name: &str) -> Value {
    wait_status(fleet, name, "running", |status| status["state"]["running"].is_object())
}

/// Reasons and messages of a pod's events.
fn events(fleet: &Fleet, name: &str) -> Vec<(String, String)> {
    let list = fleet.get("d1", "/api/v1/namespaces/default/events");
    let of_pod = list["items"].as_array().unwrap().iter().filter(|event| event["involvedObject"]["name"] == name);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    of_pod.map(|event| (text(event, "reason"), text(event, "message"))).collect()
}

#[test]
fn pods_pull_their_images_as_their_policy_says() {
    let fleet = Fleet::up_with("t-pulls", 1, &[&format!("registries={{\"{HOST}\"={{insecure=true}}}}")]);
    fleet.load_hello();
    let registry = Registry::start(&fleet);
    let kith = |args: &[&str]| {
        let mut all = vec![KITH, "--config"];
        let config = fleet.file("d1", "agent.toml");
        all.push(config.to_str().unwrap());
        all.extend(args);
        let output = fleet.exec("d1", &all);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let image = format!("{HOST}/hello:1");
    kith(&["image", "push", "hello:1", &image]);
    kith(&["image", "rm", "hello:1"]);

    create(&fleet, "never", &image, "Never");
    assert!(waits_with(&fleet, "never", "ErrImageNeverPull").contains(&image));
    create(&fleet, "pulled", &image, "IfNotPresent");
    let pod = runs(&fleet, "pulled");
    assert!(pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().starts_with("sha256:"), "{pod}");
    // What was pulled for one is there for all.
    runs(&fleet, "never");
    for (reason, part) in [("Pulling", "Pulling image"), ("Pulled", "Successfully pulled image"), ("Started", "")] {
        wait_for(&format!("the event {reason} with {part:?}"), || {
            let told = events(&fleet, "pulled");
            told.iter().any(|(known, text)| known == reason && text.contains(part)).then_some(())
        });
    }

    create(&fleet, "gone", &format!("{HOST}/hello:9"), "IfNotPresent");
    let message = waits_with(&fleet, "gone", "ImagePullBackOff");
    for part in ["Back-off pulling image", HOST, "404 Not Found", "check the name"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(events(&fleet, "gone").iter().any(|(reason, text)| reason == "Failed" && text.contains("404")));
    // Somebody brings it after all: the pod does not wait for its turn.
    kith(&["image", "load", fleet.dir.join("hello-image.tar").to_str().unwrap(), "--name", &format!("{HOST}/hello:9")]);
    runs(&fleet, "gone");

    // The registry is gone: Always makes do with what is here, and says so.
    create(&fleet, "fresh", &image, "Always");
    runs(&fleet, "fresh");
    drop(registry);
    create(&fleet, "dark", &image, "Always");
    runs(&fleet, "dark");
    wait_for("an event about the registry", || {
        events(&fleet, "dark").iter().any(|(reason, text)| reason == "Failed" && text.contains("connect")).then_some(())
    });
    create(&fleet, "lost", &format!("{HOST}/other:1"), "IfNotPresent");
    assert!(waits_with(&fleet, "lost", "ImagePullBackOff").contains("connect"));
}

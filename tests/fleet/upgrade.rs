//! Another release takes over under running containers: on one device, and in a fleet in waves. What
//! is refused, what comes back by itself, and where the power may go. The releases are this very
//! program with another version in its stamp, signed by Debian's minisign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Fleet, KITH, succeed, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Whoever makes releases: a key of its own, and files that it signed.
pub struct Maker {
    dir: tempfile::TempDir,
    /// Where the version stands in the stamp of this program.
    stamp: std::cell::OnceCell<usize>,
}

impl Maker {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let maker = Self { dir, stamp: std::cell::OnceCell::new() };
        maker.make_key("release");
        maker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make_key(&self, name: &str) {
        let mut command = Command::new("minisign");
        command.args(["-G", "-W", "-f", "-p"]).arg(self.path(&format!("{name}.pub")));
        command.arg("-s").arg(self.path(&format!("{name}.key"))).stdin(Stdio::null());
        succeed(&mut command);
    }

    /// The public key as agent.toml wants it.
    pub fn key(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    }

    fn setting(&self) -> String {
        format!("upgrade.keys = [\"{}\"]", self.key("release"))
    }

    pub fn sign(&self, file: &Path, key: &str) {
        let mut command = Command::new("minisign");
        command.args(["-S", "-m"]).arg(file).arg("-s").arg(self.path(&format!("{key}.key"))).stdin(Stdio::null());
        succeed(&mut command);
    }

    /// This program as another release, signed.
    pub fn release(&self, version: &str) -> PathBuf {
        let stripped = self.path("stripped");
        if !stripped.exists() {
            succeed(Command::new("strip").arg("-o").arg(&stripped).arg(KITH));
        }
        let file = self.path(&format!("kith-{version}"));
        let mut bytes = std::fs::read(&stripped).unwrap();
        let own = format!("STAMP:version={};", env!("CARGO_PKG_VERSION"));
        let other = format!("STAMP:version={version};");
        assert_eq!(own.len(), other.len(), "the stamp keeps its length");
        let at = *self.stamp.get_or_init(|| {
            // By its first letter: tens of megabytes are slow to compare at each place.
            let begins =
                |(at, byte): &(usize, &u8)| **byte == own.as_bytes()[0] && bytes[*at..].starts_with(own.as_bytes());
            let places: Vec<usize> = bytes.iter().enumerate().filter(begins).map(|(at, _)| at).collect();
            let [at] = places[..] else { panic!("the stamp stands in the program once, not at {places:?}") };
            at
        });
        bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        std::fs::write(&file, bytes).unwrap();
        succeed(Command::new("chmod").arg("755").arg(&file));
        self.sign(&file, "release");
        file
    }

    /// The same for a processor that no device here has: the machine in its head, and in its stamp.
    pub fn foreign(&self, version: &str) -> PathBuf {
        let mut bytes = std::fs::read(self.release(version)).unwrap();
        bytes[18..20].copy_from_slice(&[40, 0]);
        let (own, other) = (b";arch=x86_64;", b";arch=arm;   ");
        let begin = self.stamp.get().unwrap();
        let at = begin + bytes[*begin..begin + 128].windows(own.len()).position(|found| found == own).unwrap();
        bytes[at..at + other.len()].copy_from_slice(other);
        let file = self.path(&format!("kith-{version}-arm"));
        std::fs::write(&file, bytes).unwrap();
        self.sign(&file, "release");
        file
    }
}

fn upgrade(fleet: &Fleet, device: &str, args: &[&str]) -> Output {
    let mut all = vec!["upgrade"];
    all.extend(args);
    fleet.try_kith(device, &all)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn view(fleet: &Fleet, device: &str) -> Option<Value> {
    let answer = fleet.request(device, "GET", "/kith/v1/upgrade", None).ok()?;
    (answer.status == 200).then_some(answer.body)
}

fn pod(device: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{device}")}, "spec": {
        "nodeName": device, "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "hello:1", "command": ["sleep", "100000"]}]}})
}

/// A pod on each of these devices, and which program and start each is.
fn settle(fleet: &Fleet, devices: &[&str]) -> BTreeMap<String, Vec<(String, u64, String)>> {
    fleet.load_hello();
    for device in devices {
        let answer = fleet.request("d1", "POST", PODS, Some(&pod(device))).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    fleet.wait_ready_pods("d1", devices.len());
    running(fleet, devices)
}

fn running(fleet: &Fleet, devices: &[&str]) -> BTreeMap<String, Vec<(String, u64, String)>> {
    devices.iter().map(|device| ((*device).to_owned(), fleet.containers(device))).collect()
}

/// Starts agents that have ended, as systemd does, until something is so.
fn restarting<T>(fleet: &Fleet, devices: &[&str], what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    wait_for(what, || {
        for device in devices {
            if fleet.agent_pid(device).is_none() {
                // It may end again at once.
                drop(Command::new(KITH).args(["dev", "--fleet", fleet.name(), "start", device]).output().unwrap());
            }
        }
        probe()
    })
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn another_release_takes_over_under_running_containers() {
    let maker = Maker::new();
    let fleet = Fleet::up_with("t-over", 1, &[&maker.setting()]);
    let before = settle(&fleet, &["d1"]);
    let pid = fleet.agent_pid("d1").unwrap();

    // What is refused leaves everything as it is.
    let new = maker.release("0.2.0");
    let refused = |args: &[&str], part: &str| {
        let output = upgrade(&fleet, "d1", args);
        assert!(!output.status.success() && said(&output).contains(part), "{args:?}: {}", said(&output));
    };
    let bare = maker.path("bare");
    std::fs::copy(&new, &bare).unwrap();
    refused(&[text(&bare)], "there is no signature");
    maker.make_key("stranger");
    maker.sign(&bare, "stranger");
    refused(&[text(&bare)], "signed by none of the 1 keys");
    let changed = maker.path("changed");
    let mut bytes = std::fs::read(&new).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    std::fs::copy(maker.path("kith-0.2.0.minisig"), maker.path("changed.minisig")).unwrap();
    refused(&[text(&changed)], "signed by none of the 1 keys");
    let other = maker.path("other");
    std::fs::copy("/bin/true", &other).unwrap();
    maker.sign(&other, "release");
    refused(&[text(&other)], "no program of Kith");
    let foreign = maker.foreign("0.2.0");
    refused(&[text(&foreign)], "it is for arm, and this device is x86_64");
    let far = maker.release("0.0.9");
    refused(&[text(&far)], "can not read what 0.1.0 has written");
    let short = maker.path("short");
    let bytes = std::fs::read(&new).unwrap();
    std::fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    maker.sign(&short, "release");
    let output = upgrade(&fleet, "d1", &[text(&short)]);
    assert!(!output.status.success(), "half a program: {}", said(&output));
    assert_eq!(fleet.agent_pid("d1"), Some(pid));
    assert_eq!(view(&fleet, "d1").unwrap()["version"], "0.1.0");

    let output = upgrade(&fleet, "d1", &[text(&new)]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("d1 runs 0.2.0"), "{}", said(&output));
    assert_eq!(fleet.agent_pid("d1"), Some(pid), "the same process");
    assert_eq!(running(&fleet, &["d1"]), before, "the containers live on");
    assert_eq!(fleet.status("d1")["version"], "0.2.0");
    // It goes into containers that the old one started, and starts others.
    assert_eq!(fleet.kith("d1", &["exec", "on-d1", "--", "echo", "heard"]).trim(), "heard");
    let mut second = pod("d1");
    second["metadata"]["name"] = json!("second");
    assert_eq!(fleet.request("d1", "POST", PODS, Some(&second)).unwrap().status, 201);
    fleet.wait_ready_pods("d1", 2);
    let before = running(&fleet, &["d1"]);

    // The installed program starts the newer one, whatever happens to the agent.
    fleet.dev(&["kill", "d1"]);
    fleet.dev(&["start", "d1"]);
    let version = wait_for("the agent to answer", || Some(view(&fleet, "d1")?["version"].clone()));
    assert_eq!(version, "0.2.0");
    assert_eq!(running(&fleet, &["d1"]), before);

    let old = maker.release("0.1.9");
    refused(&[text(&old)], "--allow-downgrade");
    let output = upgrade(&fleet, "d1", &[text(&old), "--allow-downgrade"]);
    assert!(said(&output).contains("d1 runs 0.1.9"), "{}", said(&output));
    let unsigned = maker.release("0.2.1");
    std::fs::remove_file(maker.path("kith-0.2.1.minisig")).unwrap();
    let output = upgrade(&fleet, "d1", &[text(&unsigned), "--unsigned"]);
    assert!(said(&output).contains("d1 runs 0.2.1"), "{}", said(&output));
    assert_eq!(running(&fleet, &["d1"]), before);
    let slots = std::fs::read_dir(fleet.file("d1", "data/upgrade/slots")).unwrap().count();
    assert_eq!(slots, 2, "what runs, and what ran before");
    let waiting = std::fs::read_dir(fleet.file("d1", "data/upgrade/incoming")).unwrap().count();
    assert_eq!(waiting, 0, "neither what was refused nor what was taken in stays");
}

#[test]
fn without_a_key_nothing_takes_over() {
    let maker = Maker::new();
    let fleet = Fleet::up("t-nokey", 1);
    let new = maker.release("0.2.0");
    let output = upgrade(&fleet, "d1", &[text(&new)]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("keys = ["), "it says how: {}", said(&output));
}

#[test]
fn a_release_that_ends_again_and_again_goes_back_by_itself() {
    let maker = Maker::new();
    let fleet = Fleet::up_with("t-crash", 1, &[&maker.setting()]);
    let before = settle(&fleet, &["d1"]);
    let new = maker.release("0.2.0");
    // Whoever starts on trial dies at once, each time.
    std::fs::write(fleet.file("d1", "run/kill-at"), "upgrade:trial!").unwrap();
    let output = upgrade(&fleet, "d1", &[text(&new), "--no-wait"]);
    assert!(output.status.success(), "{}", said(&output));
    let seen = restarting(&fleet, &["d1"], "the old release to come back", || {
        view(&fleet, "d1").filter(|view| view["last"]["well"] == false && view["version"] == "0.1.0")
    });
    assert_eq!(seen["on_trial"], false, "{seen}");
    assert!(seen["last"]["why"].as_str().unwrap().contains("started 3 times"), "{seen}");
    assert_eq!(running(&fleet, &["d1"]), before);
    let status = fleet.kith("d1", &["status"]);
    assert!(status.contains("0.2.0 did not stay on d1"), "{status}");
    // The same release is tried again when somebody asks.
    std::fs::remove_file(fleet.file("d1", "run/kill-at")).unwrap();
    let output = upgrade(&fleet, "d1", &[text(&new)]);
    assert!(said(&output).contains("d1 runs 0.2.0"), "{}", said(&output));
    assert!(!fleet.kith("d1", &["status"]).contains("did not stay"));
}

#[test]
fn a_release_that_does_not_find_its_quorum_goes_back_by_itself() {
    let maker = Maker::new();
    let fleet = Fleet::up_with("t-unwell", 3, &[&maker.setting(), "upgrade.well_within_seconds = 20"]);
    let before = settle(&fleet, &["d3"]);
    let new = maker.release("0.2.0");
    // The way to the others breaks in the moment in which the new one starts.
    std::fs::write(fleet.file("d3", "run/kill-at"), "upgrade:trial").unwrap();
    let output = upgrade(&fleet, "d3", &[text(&new), "--no-wait"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the new one to start", || fleet.agent_pid("d3").is_none().then_some(()));
    fleet.dev(&["cut", "d3"]);
    fleet.dev(&["start", "d3"]);
    let seen = restarting(&fleet, &["d3"], "the old release to come back", || {
        view(&fleet, "d3").filter(|view| view["last"]["well"] == false && view["version"] == "0.1.0")
    });
    assert!(seen["last"]["why"].as_str().unwrap().contains("within 20 s: it heard a quorum before"), "{seen}");
    assert_eq!(running(&fleet, &["d3"]), before);
    fleet.dev(&["heal", "d3"]);
    wait_for("d3 to find its fleet", || fleet.leader("d3"));
}

#[test]
fn the_power_may_go_at_any_moment_of_an_upgrade() {
    let maker = Maker::new();
    let fleet = Fleet::up_with("t-power", 1, &[&maker.setting()]);
    let before = settle(&fleet, &["d1"]);
    let mut runs = "0.1.0".to_owned();
    // Where it goes, and whether the new one is there afterwards.
    let points = [
        ("upgrade:staged", false),
        ("upgrade:recorded", true),
        ("upgrade:handing-over", true),
        ("upgrade:trial", true),
        ("upgrade:well", true),
        ("upgrade:stays", true),
    ];
    for (number, (point, goes_over)) in points.into_iter().enumerate() {
        let version = format!("0.2.{number}");
        let new = maker.release(&version);
        let order = fleet.file("d1", "run/kill-at");
        std::fs::write(&order, point).unwrap();
        // The answer may die with the agent.
        drop(upgrade(&fleet, "d1", &[text(&new), "--no-wait"]));
        wait_for(&format!("the agent to die at {point}"), || (!order.exists()).then_some(()));
        if goes_over {
            runs.clone_from(&version);
        }
        let seen = restarting(&fleet, &["d1"], &format!("{runs} to run after {point}"), || {
            view(&fleet, "d1").filter(|view| view["on_trial"] == false && view["version"] == runs.as_str())
        });
        assert!(!goes_over || seen["last"]["well"] == true, "{point}: {seen}");
        assert_eq!(running(&fleet, &["d1"]), before, "{point}");
        maker_forgets(&maker, &version);
    }
}

fn maker_forgets(maker: &Maker, version: &str) {
    std::fs::remove_file(maker.path(&format!("kith-{version}"))).unwrap();
}

fn rollout(fleet: &Fleet, device: &str) -> Option<Value> {
    let rollout = view(fleet, device)?["rollout"].clone();
    rollout.is_object().then_some(rollout)
}

fn phases(rollout: &Value) -> BTreeMap<&str, &str> {
    let devices = rollout["devices"].as_array().unwrap();
    devices.iter().map(|device| (device["name"].as_str().unwrap(), device["phase"].as_str().unwrap())).collect()
}

#[test]
fn a_fleet_goes_over_in_waves_and_stops_at_a_canary_that_fails() {
    let maker = Maker::new();
    let settings = [&maker.setting(), "upgrade.bytes_per_second = 0"];
    let fleet = Fleet::up_with("t-waves", 3, &settings);
    let never = ["labels.\"kith.dev/voter\" = \"never\"", settings[0], settings[1]];
    let add: Vec<&str> = ["add"].into_iter().chain(never.iter().flat_map(|setting| ["--set", setting])).collect();
    for _ in 0..2 {
        fleet.dev(&add);
    }
    let devices = ["d1", "d2", "d3", "d4", "d5"];
    let before = settle(&fleet, &devices);
    // One is away, and follows later.
    fleet.dev(&["kill", "d5"]);
    wait_for("d5 to be missed", || {
        let status = fleet.request("d1", "GET", "/kith/v1/status", None).ok()?.body;
        let ready =
            |name: &str| status["devices"].as_array()?.iter().find(|one| one["name"] == name)?["ready"].as_bool();
        (ready("d5") == Some(false)).then_some(())
    });

    // The canary does not vote: d4. It dies whenever it starts as the new release.
    std::fs::write(fleet.file("d4", "run/kill-at"), "upgrade:trial!").unwrap();
    let new = maker.release("0.2.0");
    let flags = ["--fleet", "--steady", "2s", "--within", "5m", "--percent", "40", "--no-wait"];
    // Without a file for somebody's processor nobody goes; with one that nobody needs they do.
    let foreign = maker.foreign("0.2.0");
    let output = upgrade(&fleet, "d1", &[&[text(&foreign)][..], &flags].concat());
    let lacking = "there is no program for x86_64 (d1, d2, d3, d4, d5) among those that were given";
    assert!(!output.status.success() && said(&output).contains(lacking), "{}", said(&output));
    assert!(rollout(&fleet, "d1").is_none(), "nothing has begun");
    let output = upgrade(&fleet, "d1", &[&[text(&new), text(&foreign)][..], &flags].concat());
    assert!(output.status.success(), "{}", said(&output));
    let again = upgrade(&fleet, "d2", &[&[text(&new)][..], &flags].concat());
    assert!(said(&again).contains("on its way to 0.2.0 already"), "{}", said(&again));
    // A leader that has just taken over gives those time whom it has not heard yet: d5 waits, and then is away.
    let expected = [("d1", "waiting"), ("d2", "waiting"), ("d3", "waiting"), ("d4", "failed"), ("d5", "away")];
    let stopped = restarting(&fleet, &["d4"], "the rollout to stop", || {
        let stopped = rollout(&fleet, "d1").filter(|rollout| rollout["phase"] == "failed")?;
        (phases(&stopped) == BTreeMap::from(expected)).then_some(stopped)
    });
    let why = stopped["why"].as_str().unwrap();
    assert!(why.starts_with("d4: 0.2.0 did not stay") && why.contains("started 3 times"), "{stopped}");
    for device in &devices[..4] {
        assert_eq!(view(&fleet, device).unwrap()["version"], "0.1.0", "{device}");
    }
    let status = fleet.kith("d2", &["status"]);
    assert!(status.contains("the fleet's way to 0.2.0 has stopped"), "{status}");
    let shown = fleet.kith("d2", &["upgrade", "--status"]);
    assert!(shown.contains("d4") && shown.contains("failed"), "{shown}");

    // Mended, and resumed: everybody who is there, the leader last.
    std::fs::remove_file(fleet.file("d4", "run/kill-at")).unwrap();
    fleet.kith("d2", &["upgrade", "--pause"]);
    assert_eq!(rollout(&fleet, "d2").unwrap()["phase"], "failed");
    fleet.kith("d2", &["upgrade", "--resume"]);
    let here = &devices[..4];
    for count in 1..=here.len() {
        restarting(&fleet, here, &format!("{count} of those who are there to run 0.2.0"), || {
            let runs = |device: &&&str| view(&fleet, device).is_some_and(|view| view["version"] == "0.2.0");
            (here.iter().filter(runs).count() >= count).then_some(())
        });
    }
    let waiting = wait_for("the rollout to wait for d5", || {
        rollout(&fleet, "d1").filter(|rollout| rollout["waits"].as_str().is_some_and(|waits| waits.contains("d5")))
    });
    assert_eq!((phases(&waiting)["d5"], &waiting["phase"]), ("away", &json!("running")), "{waiting}");
    assert_eq!(
        running(&fleet, here),
        before.iter().filter(|(name, _)| *name != "d5").map(|(k, v)| (k.clone(), v.clone())).collect()
    );

    // The one that was away comes back as it was, and goes over too.
    fleet.dev(&["start", "d5"]);
    restarting(&fleet, &devices, "d5 to have its turn", || {
        rollout(&fleet, "d1").filter(|rollout| phases(rollout)["d5"] != "away" && phases(rollout)["d5"] != "waiting")
    });
    restarting(&fleet, &devices, "d5 to run 0.2.0", || view(&fleet, "d5").filter(|view| view["version"] == "0.2.0"));
    restarting(&fleet, &devices, "the rollout to be complete", || {
        rollout(&fleet, "d1").filter(|rollout| rollout["phase"] == "complete")
    });
    assert_eq!(view(&fleet, "d5").unwrap()["version"], "0.2.0");
    assert_eq!(running(&fleet, &devices), before, "no container noticed");
    fleet.wait_same_hash(&devices);
}

//! What the commands of the page on operating need: a fleet that loses one device after the other.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{KITH, wait_for};
use crate::stage::How::{After, Judges, Keys, Part, Refused, Terminal};
use crate::stage::{Note, Stage};
use crate::upgrade::Maker;

pub const OPERATING: &[Note] = &[
    Note("docs/operating.md", "kith doctor", Judges(" checks: ")),
    Note("docs/operating.md", "minisign -G -p kith.pub -s kith.key", Keys("\n\n")),
    Note("docs/operating.md", "minisign -S -s kith.key -m kith", After(|stage| drop(release(stage, "kith", "0.2.0")))),
    Note("docs/operating.md", "minisign -S -s kith.key -m kith", Keys("\n")),
    Note("docs/operating.md", "kith upgrade ./kith", After(one_more)),
    Note("docs/operating.md", "kith upgrade --fleet ./kith-x86_64 ./kith-armv7", After(one_dies)),
    Note("docs/operating.md", "kith upgrade --fleet ./kith-x86_64 ./kith-armv7", Refused("did not stay")),
    Note("docs/operating.md", "kith upgrade --fleet ./kith-x86_64 ./kith-armv7", Part),
    Note("docs/operating.md", "kith status", After(one_less)),
    Note("docs/operating.md", "kith recover", After(left)),
    Note("docs/operating.md", "kith recover", Judges("would go on alone")),
    Note("docs/operating.md", "kith recover", Terminal("no\n")),
    Note("docs/operating.md", "kith recover --yes", After(left)),
    Note(
        "docs/operating.md",
        "kith backup /mnt/stick/fleet.backup",
        After(|stage| {
            left(stage);
            leads(stage);
            stage.names.set("/mnt/stick/", "");
        }),
    ),
    Note(
        "docs/operating.md",
        "kith restore /mnt/stick/fleet.backup",
        After(|stage| {
            stage.device = gone(stage);
            stage.prepare("kith leave --force");
        }),
    ),
    Note(
        "docs/operating.md",
        "kith leave --device NAME --force",
        After(|stage| {
            left(stage);
            let (device, token) = (stage.device, stage.prepare("kith token create -q"));
            // Of the two that run with one key, the fleet knows one name.
            stage.alone("copy", "advertise = [\"10.77.0.11:7444\"]\n");
            stage.prepare(&format!("kith join {} --name copy", token.trim()));
            (stage.device, stage.variables) = (device, Vec::new());
            stage.names.set("--device NAME", "--device copy");
        }),
    ),
    Note("docs/operating.md", "kith leave --force", After(|stage| stage.device = gone(stage))),
    Note(
        "docs/operating.md",
        "kith join TOKEN",
        After(|stage| {
            left(stage);
            let token = stage.prepare("kith token create -q");
            stage.names.set("join TOKEN", &format!("join {}", token.trim()));
            stage.device = gone(stage);
        }),
    ),
    Note("docs/networking.md", "kith agent --cleanup", After(|stage| stage.device = gone(stage))),
];

/// This program as another release, under a name that the page has.
fn release(stage: &mut Stage, name: &str, version: &str) -> PathBuf {
    let made = stage.maker.get_or_insert_with(Maker::new).release(version);
    let path = stage.path(name);
    std::fs::copy(made, &path).unwrap();
    path
}

/// The key of the page comes onto every device, and that of the files that are not signed by hand; and
/// one more device: the one that goes first.
fn one_more(stage: &mut Stage) {
    let key = std::fs::read_to_string(stage.path("kith.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    let other = stage.maker.as_ref().unwrap().key("release");
    let table = format!("keys=[\"{key}\", \"{other}\"]");
    for device in ["d1", "d2", "d3"] {
        let path = stage.fleet.file(device, "agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n[upgrade]\n{table}\n")).unwrap();
        stage.fleet.signal(device, nix::sys::signal::Signal::SIGHUP);
    }
    for device in ["d1", "d2", "d3"] {
        wait_for("the agent to take its new settings", || {
            stage.fleet.agent_log(device).contains("begins again with them").then_some(())
        });
        wait_for("the agent to find its fleet again", || stage.fleet.leader(device));
    }
    let upgrade = format!("upgrade={{{table}, bytes_per_second=0}}");
    stage.fleet.dev(&[
        "add",
        "--set",
        "lost_after_seconds=3",
        "--set",
        "labels.\"kith.dev/voter\"=\"never\"",
        "--set",
        &upgrade,
    ]);
    stage.names.set("gate runs", "d4 runs");
    stage.device = "d4";
}

/// The device that goes first ends at once whenever it starts as the new release; it is started again
/// as systemd would.
fn one_dies(stage: &mut Stage) {
    let ours = release(stage, "kith-x86_64", "0.2.1");
    let maker = stage.maker.as_ref().unwrap();
    std::fs::copy(maker.foreign("0.2.1"), stage.path("kith-armv7")).unwrap();
    maker.sign(&ours, "release");
    maker.sign(&stage.path("kith-armv7"), "release");
    std::fs::write(stage.fleet.file("d4", "run/kill-at"), "upgrade:trial!").unwrap();
    stage.keep(Restarts::of(stage.fleet.name(), "d4"));
}

/// Starts an agent whenever it has ended, until it is dropped.
struct Restarts(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Restarts {
    fn of(fleet: &str, device: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, fleet, device) = (over.clone(), fleet.to_owned(), device.to_owned());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                // It may end again at once.
                drop(Command::new(KITH).args(["dev", "--fleet", &fleet, "start", &device]).output());
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Restarts {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().unwrap().join();
    }
}

/// The first time the leader loses its power, the second time its successor.
fn one_less(stage: &mut Stage) {
    let here = runs(stage);
    if here.len() == 3 {
        stage.forget();
        std::fs::remove_file(stage.fleet.file("d4", "run/kill-at")).unwrap();
        stage.prepare("kith upgrade --abort");
        stage.device = "d4";
        stage.prepare("kith leave");
    }
    let leader = wait_for("a leader", || stage.fleet.leader(here[0]));
    stage.fleet.dev(&["kill", "--power", &leader]);
    left(stage);
    if here.len() == 3 {
        let next = || stage.fleet.leader(stage.device).filter(|next| *next != leader);
        let next = wait_for("another leader", next);
        stage.device = here.into_iter().find(|device| *device == next).unwrap();
    }
}

fn runs(stage: &Stage) -> Vec<&'static str> {
    ["d1", "d2", "d3"].into_iter().filter(|device| stage.fleet.agent_pid(device).is_some()).collect()
}

/// A device whose agent still runs, and one whose agent does not.
fn left(stage: &mut Stage) {
    stage.device = runs(stage)[0];
}

fn gone(stage: &Stage) -> &'static str {
    let here = runs(stage);
    ["d3", "d2", "d1"].into_iter().find(|device| !here.contains(device)).unwrap()
}

fn leads(stage: &Stage) {
    wait_for("the one that is left to lead", || {
        stage.fleet.leader(stage.device).filter(|leader| leader == stage.device)
    });
}

//! A fleet's surroundings without its agents: network, folders, programs, mounts, cgroups.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use nix::mount::{MsFlags, mount};

use super::*;
use crate::cli::failure::Doing;
use crate::network::netns;

/// A fleet that is removed when its test ends, however it ends.
struct Made {
    fleet: Fleet,
    _dir: tempfile::TempDir,
}

impl Made {
    fn new(name: &str, devices: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("fleet");
        let name = format!("t{}-{name}", std::process::id());
        let fleet = Fleet::new(name, Some(path)).unwrap();
        fleet.claim().unwrap();
        switch::make(&fleet).unwrap();
        for number in 1..=devices {
            let device = fleet.numbered(number);
            device.make(&[]).unwrap();
            switch::connect(&fleet, &device).unwrap();
        }
        switch::settle(&fleet, &fleet.devices()).unwrap();
        Self { fleet, _dir: dir }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        teardown::down(&self.fleet).unwrap();
    }
}

fn run_in(device: &Device, words: &[&str]) -> std::process::Output {
    let mut command = inside::command(device, words);
    netns::within(&device.namespace(), || command.output().doing(|| "run".into())).unwrap()
}

fn sleeper_in(device: &Device) -> Child {
    let mut command = Command::new("sleep");
    command.arg("100");
    netns::within(&device.namespace(), || command.spawn().doing(|| "sleep".into())).unwrap()
}

fn pings(from: &Device, to: &Device) -> bool {
    run_in(from, &["busybox", "ping", "-c", "1", "-W", "1", &to.address().to_string()]).status.success()
}

#[test]
fn devices_reach_each_other_until_one_is_cut_off() {
    let made = Made::new("cut", 3);
    let [d1, d2, d3] = &made.fleet.devices()[..] else { unreachable!("three devices were made") };
    assert!(pings(d1, d2) && pings(d2, d3) && pings(d3, d1));
    switch::unplug(&made.fleet, d2).unwrap();
    assert!(!switch::is_plugged(&made.fleet, d2).unwrap());
    assert!(!pings(d1, d2) && !pings(d2, d3), "d2 is cut off");
    assert!(pings(d1, d3), "the others go on");
    assert!(pings(d2, d2), "d2 reaches itself");
    switch::plug(&made.fleet, d2).unwrap();
    switch::plug(&made.fleet, d2).unwrap();
    assert!(pings(d1, d2));
    let routes = run_in(d1, &["busybox", "ip", "route"]);
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    assert!(routes.contains("10.77.0.0/24") && !routes.contains("default"), "{routes}");
}

#[test]
fn a_command_inside_finds_the_device_s_agent() {
    let made = Made::new("env", 1);
    let device = made.fleet.device("d1").unwrap();
    let output = run_in(&device, &["sh", "-c", "echo $KITH_SOCKET; echo $KITH_CONFIG; exit 7"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text, format!("{}\n{}\n", device.socket().display(), device.config_file().display()));
    assert!(made.fleet.device("d2").unwrap_err().text().contains("its devices: d1"));
}

#[test]
fn a_power_cut_ends_one_device_and_spares_its_disk_and_the_others() {
    let made = Made::new("power", 2);
    let [d1, d2] = &made.fleet.devices()[..] else { unreachable!("two devices were made") };
    let (mut lost, mut kept) = (sleeper_in(d1), sleeper_in(d2));
    fs::write(d1.dir.join("data/precious"), "x").unwrap();
    fs::write(d1.dir.join("run/kith.sock"), "x").unwrap();
    let merged = d1.dir.join("run/merged");
    fs::create_dir(&merged).unwrap();
    mount(Some("tmpfs"), &merged, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    teardown::cut_power(&made.fleet, d1).unwrap();
    assert!(!lost.wait().unwrap().success());
    assert!(kept.try_wait().unwrap().is_none(), "d2 goes on");
    assert_eq!(fs::read_dir(d1.dir.join("run")).unwrap().count(), 0, "a reboot empties the run folder");
    assert!(d1.dir.join("data/precious").exists());
    assert!(pings(d2, d1), "the cable is still there");
    kept.kill().unwrap();
    kept.wait().unwrap();
}

#[test]
fn down_leaves_nothing_and_may_be_repeated() {
    let made = Made::new("down", 2);
    let fleet = &made.fleet;
    let device = fleet.device("d1").unwrap();
    let mut program = sleeper_in(&device);
    mount(Some("tmpfs"), &device.dir.join("run"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let pids = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().find(|p| Path::new(p).join("cgroup.procs").exists());
    let cgroup = format!("{}{}/pod", pids.expect("a cgroup hierarchy"), device.cgroup());
    fs::create_dir_all(&cgroup).unwrap();
    // Outside the namespace, found by its cgroup alone.
    let mut container = Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(format!("{cgroup}/cgroup.procs"), container.id().to_string()).unwrap();
    let reaper = std::thread::spawn(move || container.wait().unwrap());
    teardown::down(fleet).unwrap();
    assert!(!program.wait().unwrap().success() && !reaper.join().unwrap().success());
    assert!(!Path::new(&cgroup).exists() && !fleet.dir.exists());
    assert_eq!(fleet.namespaces(), Vec::<String>::new());
    assert!(mounts::below(&fleet.dir).is_empty());
    teardown::down(fleet).unwrap();
}

#[test]
fn a_device_that_did_not_join_leaves_nothing() {
    let made = Made::new("discard", 2);
    let device = made.fleet.device("d2").unwrap();
    teardown::discard(&made.fleet, &device).unwrap();
    assert_eq!(made.fleet.devices().len(), 1);
    assert_eq!(made.fleet.namespaces().len(), 2);
    // The cable's name is free again at once.
    device.make(&[]).unwrap();
    switch::connect(&made.fleet, &device).unwrap();
}

#[test]
fn a_half_made_fleet_goes_too_and_a_strange_folder_stays() {
    let made = Made::new("half", 1);
    let fleet = &made.fleet;
    netns::create(&fleet.numbered(2).namespace()).unwrap();
    fs::remove_dir_all(&fleet.dir).unwrap();
    fs::create_dir_all(&fleet.dir).unwrap();
    fs::write(fleet.dir.join("thesis.tex"), "three years of work").unwrap();
    assert_eq!(fleet.namespaces().len(), 3);
    teardown::down(fleet).unwrap();
    assert!(fleet.namespaces().is_empty());
    assert!(fleet.dir.join("thesis.tex").exists(), "a folder without the fleet's mark is not ours");
}

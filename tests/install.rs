//! `install.sh`, for systems without Debian's packages, into a folder and out of it again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const KITH: &str = env!("CARGO_BIN_EXE_kith");

/// Busybox's shell is the smallest that it has to work with.
fn install(dest: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("busybox");
    command.args(["sh", "install.sh"]).args(args).env("DESTDIR", dest);
    command.output().expect("install it first: apt-get install busybox-static")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn files(dest: &Path) -> Vec<String> {
    let found = Command::new("find").arg(dest).args(["-type", "f", "-printf", "%P\n"]).output().unwrap();
    let mut all: Vec<String> = String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn what_is_installed_is_complete_keeps_settings_and_can_be_removed() {
    let dest = tempfile::tempdir().unwrap();
    let first = install(dest.path(), &[KITH]);
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("the settings are in /etc/kith/agent.toml"), "{}", said(&first));
    let program = dest.path().join("usr/local/bin/kith");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    let unit = fs::read_to_string(dest.path().join("etc/systemd/system/kith.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/kith agent"), "{unit}");
    let all = files(dest.path());
    for part in ["completions/kith", "site-functions/_kith", "kith.fish", "man1/kith-apply.1", "tmpfiles.d/kith.conf"] {
        assert!(all.iter().any(|file| file.ends_with(part)), "{part} in {all:?}");
    }

    let settings = dest.path().join("etc/kith/agent.toml");
    fs::write(&settings, "name = \"mine\"\n").unwrap();
    let again = install(dest.path(), &[KITH]);
    assert!(again.status.success() && said(&again).contains("your settings stay"), "{}", said(&again));
    assert_eq!(fs::read_to_string(&settings).unwrap(), "name = \"mine\"\n");

    let removed = install(dest.path(), &["--uninstall"]);
    assert!(removed.status.success(), "{}", said(&removed));
    assert_eq!(files(dest.path()), ["etc/kith/agent.toml", "etc/kith/agent.toml.new"]);
}

#[test]
fn what_is_no_program_for_this_device_changes_nothing() {
    let dest = tempfile::tempdir().unwrap();
    let foreign = dest.path().join("foreign");
    fs::write(&foreign, "\x7fELF of another processor").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
    for (binary, part) in [("/nonexistent", "there is no program"), (foreign.to_str().unwrap(), "does not run here")] {
        let refused = install(dest.path(), &[binary]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(part) && said(&refused).contains("hint: "), "{}", said(&refused));
        assert_eq!(files(dest.path()), ["foreign"]);
    }
}

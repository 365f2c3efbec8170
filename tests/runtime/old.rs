//! Kernels from 5.10 on: what later ones brought is taken away from this process, and containers are as
//! they are with it. `tests/vm/old.sh` has a whole machine with such a kernel.

use std::collections::BTreeMap;
use std::fs;

use kith::reconciler::container::{ContainerState, Mount, Propagation};
use kith::runtime::{Runtime, Shims};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::bench::{self, Bench, PATIENCE};

/// `mount_setattr`, of Linux 5.12.
const MOUNT_SETATTR: i64 = 442;

/// Has the kernel refuse some calls of this thread, and of all that it starts from here on.
fn refuse(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, architecture).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

fn grow_old() {
    refuse(BTreeMap::from([(MOUNT_SETATTR, Vec::new())]), nix::libc::ENOSYS);
    let flag = u64::from(nix::libc::CLOSE_RANGE_CLOEXEC);
    let close = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, flag).unwrap();
    let rule = SeccompRule::new(vec![close]).unwrap();
    refuse(BTreeMap::from([(nix::libc::SYS_close_range, vec![rule])]), nix::libc::EINVAL);
}

/// Where a container has something mounted, of what kind and how; the descriptors of a program that is run
/// in it; and what it can not write to.
async fn seen(bench: &Bench, shims: &Shims, name: &str) -> (Vec<String>, String) {
    let volume = bench.path().join("volume");
    fs::create_dir_all(&volume).unwrap();
    let mount = |destination: &str, read_only| Mount {
        source: volume.clone(),
        below: Vec::new(),
        destination: destination.into(),
        read_only,
        propagation: Propagation::Private,
    };
    let mut spec = Bench::spec(name, &["/bin/sh", "-c", "echo no >/reads/x || echo refused; exec sleep 1000"]);
    spec.mounts = vec![mount("/reads", true), mount("/writes", false), mount("/dev/shm", true)];
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "refused").await;
    let ContainerState::Running { pid, .. } = bench.state(shims, &spec).await else { panic!("not running") };
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut found: Vec<String> = mounts
        .lines()
        .map(|line| {
            let (place, kind) = line.split_once(" - ").unwrap();
            let place: Vec<&str> = place.split(' ').collect();
            format!("{} {} {}", place[4], place[5], kind.split(' ').next().unwrap())
        })
        .collect();
    found.sort();
    let words = ["sh", "-c", "cd /proc/self/fd; echo *"].map(str::to_owned).to_vec();
    let said = shims.exec_capture(&spec.reference, words, PATIENCE, 4096).await.unwrap();
    (found, String::from_utf8(said.output).unwrap())
}

#[test]
fn a_container_is_the_same_on_an_old_kernel() {
    let bench = Bench::new();
    let (new, old) = bench::life(async || {
        let shims = bench.open();
        let new = seen(&bench, &shims, "new").await;
        drop(shims);
        grow_old();
        // What seals the program is made anew too.
        let shims = bench.open();
        let old = seen(&bench, &shims, "old").await;
        bench.clear(&shims).await;
        (new, old)
    });
    assert!(new.0.iter().any(|line| line.starts_with("/reads ro,nosuid,nodev")), "{new:?}");
    assert!(new.0.iter().any(|line| line.starts_with("/sys ro,nosuid,nodev,noexec")), "{new:?}");
    assert_eq!(new, old);
}

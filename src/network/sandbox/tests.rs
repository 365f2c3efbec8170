use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::reconciler::container::UserRange;
use crate::reconciler::sandbox::{Protocol, PublishedPort, Resolver};

/// Runs a test on a thread with a network namespace of its own.
fn on_a_device(work: impl FnOnce() + Send + 'static) {
    let device = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace: this test needs root");
        work();
    });
    device.join().unwrap();
}

fn config(run_dir: &Path) -> SandboxesConfig {
    SandboxesConfig { run_dir: run_dir.to_owned(), range: "10.42.1.0/29".parse().unwrap() }
}

fn spec(uid: &str, host_port: u16) -> SandboxSpec {
    let tcp = PublishedPort { protocol: Protocol::Tcp, host_ip: None, host_port, port: 80 };
    SandboxSpec {
        pod: PodRef { namespace: "default".into(), name: format!("pod-{uid}"), uid: uid.into() },
        own_network: true,
        host_ipc: false,
        hostname: "box".into(),
        names: vec!["box".into()],
        aliases: Vec::new(),
        resolver: Resolver { as_device: true, ..Resolver::default() },
        ports: vec![tcp],
        sysctls: vec![("net.ipv4.ip_local_port_range".into(), "20000 21000".into())],
        users: None,
    }
}

/// How many mounts there are below a folder, and how many cables of pods.
fn leftovers(run_dir: &Path) -> (usize, usize) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = run_dir.to_str().unwrap();
    let cables = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let cables = cables.lines().filter(|line| line.trim_start().starts_with("kith-"));
    (mounts.lines().filter(|line| line.contains(below)).count(), cables.count())
}

#[test]
fn a_sandbox_is_made_found_again_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        let first = Sandboxes::open(&config(&run_dir)).unwrap();
        assert_eq!(leftovers(&run_dir), (0, 0), "nothing is made before it is needed");
        first.0.make(spec("a", 8080)).unwrap();
        first.0.make(spec("a", 8080)).unwrap();
        let taken = first.0.make(spec("b", 8080)).unwrap_err().to_string();
        assert_eq!(taken, "publish host port 8080/TCP: pod default/pod-a has it on this device");
        let before = first.list();
        assert_eq!(before.len(), 1);
        let ready = before[0].ready().unwrap().clone();
        assert_eq!(ready.address, Some("10.42.1.2".parse().unwrap()));
        assert!(fs::read_to_string(ready.folder.join("hosts")).unwrap().contains("10.42.1.2\tbox"));
        assert_eq!(leftovers(&run_dir), (4, 1));
        let inode = fs::metadata(ready.folder.join("net")).unwrap().ino();
        drop(first);
        let second = Sandboxes::open(&config(&run_dir)).unwrap();
        assert_eq!(second.list(), before);
        assert_eq!(fs::metadata(ready.folder.join("net")).unwrap().ino(), inode);
        second.0.make(spec("b", 8081)).unwrap();
        assert_eq!(second.list()[1].ready().unwrap().address, Some("10.42.1.3".parse().unwrap()));
        second.0.remove("a").unwrap();
        second.0.remove("a").unwrap();
        second.0.remove("b").unwrap();
        assert_eq!(leftovers(&run_dir), (0, 0));
        assert_eq!(second.list(), []);
        assert_eq!(rules::count().unwrap(), second.0.network.rules(Vec::new()).count());
        let removed = remove_everything(&config(&run_dir)).unwrap();
        assert!(removed.iter().any(|what| what.contains("kith0")), "{removed:?}");
        assert_eq!((rules::count().unwrap(), PodNetwork::exists()), (0, false));
        assert!(!run_dir.join("pods").exists());
    });
}

/// The user namespace that has power over a namespace, as the number of its file.
#[expect(unsafe_code, reason = "NS_GET_USERNS has no safe wrapper")]
fn owner(namespace: &Path) -> u64 {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    const NS_GET_USERNS: nix::libc::Ioctl = 0xb701;
    let file = fs::File::open(namespace).unwrap();
    // SAFETY: an open namespace; the result is checked, and is a descriptor of ours alone.
    let owner = unsafe {
        let owner = nix::libc::ioctl(file.as_raw_fd(), NS_GET_USERNS);
        assert!(owner >= 0, "{}: {}", namespace.display(), io::Error::last_os_error());
        fs::File::from(OwnedFd::from_raw_fd(owner))
    };
    owner.metadata().unwrap().ino()
}

#[test]
fn the_namespaces_of_a_pod_with_users_of_its_own_belong_to_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        let range = UserRange { first: 1_100_000_000, count: 65_536 };
        let first = Sandboxes::open(&config(&run_dir)).unwrap();
        first.0.make(SandboxSpec { users: Some(range), ..spec("a", 8080) }).unwrap();
        first.0.make(spec("b", 8081)).unwrap();
        assert_eq!(leftovers(&run_dir), (9, 2));
        let folder = first.list()[0].ready().unwrap().folder.clone();
        assert_eq!(first.list()[0].ready().unwrap().users, Some(folder.join("user")));
        assert_eq!(first.list()[1].ready().unwrap().users, None);
        let (own, devices) = (fs::metadata(folder.join("user")).unwrap().ino(), owner(Path::new("/proc/self/ns/net")));
        assert_ne!(own, devices);
        for name in ["net", "ipc", "uts"] {
            assert_eq!(owner(&folder.join(name)), own, "{name}");
            assert_eq!(owner(&first.list()[1].ready().unwrap().folder.join(name)), devices, "{name}");
        }
        // It is connected and set up as any other: by the device, from outside.
        let setting = |name: &str| {
            let read = || {
                nix::sched::setns(fs::File::open(folder.join("net")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                fs::read_to_string(name).unwrap()
            };
            std::thread::scope(|scope| scope.spawn(read).join().unwrap())
        };
        assert!(setting("/proc/thread-self/net/dev").contains("eth0"));
        let range_of = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(range_of(setting("/proc/sys/net/ipv4/ip_local_port_range")), ["20000", "21000"]);
        assert_eq!(range_of(setting("/proc/sys/net/ipv4/ping_group_range")), ["0", "2147483647"]);
        drop(first);
        let second = Sandboxes::open(&config(&run_dir)).unwrap();
        assert_eq!(second.list().len(), 2);
        drop(second);
        nix::mount::umount(&folder.join("user")).unwrap();
        let third = Sandboxes::open(&config(&run_dir)).unwrap();
        assert_eq!(third.list().len(), 1, "one without its users is no sandbox");
        let nobody = UserRange { first: 0, count: 65_536 };
        let refused = third.0.make(SandboxSpec { users: Some(nobody), ..spec("c", 8082) }).unwrap_err();
        assert_eq!(refused.to_string(), "make the pod's namespaces: a user namespace needs ids of its own");
        third.0.remove("b").unwrap();
        assert_eq!(leftovers(&run_dir), (0, 0));
    });
}

#[test]
fn pods_with_users_of_their_own_begin_together_and_no_maker_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        let all =
            Sandboxes::open(&SandboxesConfig { run_dir: run_dir.clone(), range: "10.42.1.0/24".parse().unwrap() });
        let all = all.unwrap();
        let make = |number: u16| {
            let range = UserRange { first: 1_100_000_000 + u32::from(number) * 65_536, count: 65_536 };
            all.0.make(SandboxSpec { users: Some(range), ..spec(&format!("p{number}"), 8000 + number) }).map(drop)
        };
        let made = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|number| scope.spawn(move || make(number))).collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap().map_err(|e| e.to_string()))
                .collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(made, Ok(vec![(); 8]));
        let owners: std::collections::BTreeSet<u64> =
            all.list().iter().map(|found| owner(&found.ready().unwrap().folder.join("net"))).collect();
        assert_eq!(owners.len(), 8);
        (0..8).for_each(|number| all.0.remove(&format!("p{number}")).unwrap());
        assert_eq!(leftovers(&run_dir), (0, 0));
    });
}

#[test]
fn pods_that_begin_together_share_the_bridge_that_is_made_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        for _ in 0..5 {
            let network = PodNetwork::new(config(&run_dir).range, &run_dir);
            // Threads inherit the network namespace of the one that starts them.
            let made = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| network.ensure().map_err(|e| e.to_string()))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect::<Result<Vec<u32>, String>>()
            });
            assert_eq!(made, Ok(vec![1500; 4]));
            network.remove().unwrap();
        }
    });
}

#[test]
fn an_agent_killed_at_any_step_leaves_nothing_that_the_next_does_not_remove() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        for last in 0..=6 {
            let killed = Sandboxes::open(&config(&run_dir)).unwrap();
            let inner = &killed.0;
            let mtu = inner.network.ensure().unwrap();
            let folder = inner.folder.join("a");
            let mut record = inner.reserve(spec("a", 8080)).unwrap();
            make_private(&folder).unwrap();
            let connection = inner.network.connection(record.address.unwrap(), mtu);
            let device = pods::own_namespace().unwrap();
            if last >= 1 {
                record.write(&folder).unwrap();
            }
            if last >= 2 {
                namespaces::mount_shared_memory(&folder).unwrap();
            }
            if last >= 3 {
                let inside = || if last >= 4 { pods::connect(connection, "a", device.as_fd()) } else { Ok(()) };
                namespaces::make(&record.spec, &folder, inside).unwrap();
            }
            if last >= 5 {
                PodNetwork::plug("a").unwrap();
                record.ready = true;
                inner.known().insert("a".into(), record.clone());
                inner.write_rules(true).unwrap();
            }
            if last >= 6 {
                // It was whole, and its removal had begun.
                record.write(&folder).unwrap();
                record.ready = false;
                record.write(&folder).unwrap();
            }
            drop(killed);
            let next = Sandboxes::open(&config(&run_dir)).unwrap();
            assert_eq!(next.list(), [], "after step {last}");
            assert_eq!(leftovers(&run_dir), (0, 0), "after step {last}");
            assert_eq!(rules::count().unwrap(), next.0.network.rules(Vec::new()).count(), "after step {last}");
            next.0.make(spec("a", 8080)).unwrap();
            next.0.remove("a").unwrap();
        }
        remove_everything(&config(&run_dir)).unwrap();
    });
}

#[test]
fn what_can_not_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        let sandboxes = Sandboxes::open(&config(&run_dir)).unwrap();
        let wrong = SandboxSpec { sysctls: vec![("net.nowhere".into(), "1".into())], ..spec("a", 8080) };
        let error = sandboxes.0.make(wrong).unwrap_err().to_string();
        assert!(error.contains("net.nowhere"), "{error}");
        let taken = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
        let error = sandboxes.0.make(spec("a", 8080)).unwrap_err().to_string();
        assert_eq!(error, "publish host port 8080/TCP: a program on the device listens there already");
        drop(taken);
        let odd = SandboxSpec { pod: PodRef { uid: "../x".into(), ..spec("a", 1).pod }, ..spec("a", 1) };
        assert!(sandboxes.0.make(odd).unwrap_err().to_string().contains("is no uid"));
        assert_eq!(leftovers(&run_dir), (0, 0));
        for (number, uid) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            sandboxes.0.make(spec(uid, 8000 + u16::try_from(number).unwrap())).unwrap();
        }
        let full = sandboxes.0.make(spec("f", 9000)).unwrap_err().to_string();
        assert_eq!(full, "give the pod an address: all of 10.42.1.0/29 are taken");
        remove_everything(&config(&run_dir)).unwrap();
        assert_eq!(leftovers(&run_dir), (0, 0));
    });
}

#[test]
fn rules_come_back_and_a_network_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().canonicalize().unwrap();
    on_a_device(move || {
        let sandboxes = Sandboxes::open(&config(&run_dir)).unwrap();
        sandboxes.0.make(spec("a", 8080)).unwrap();
        let whole = rules::count().unwrap();
        assert!(rules::remove().unwrap());
        sandboxes.0.heal().unwrap();
        assert_eq!(rules::count().unwrap(), whole);
        let moved = SandboxesConfig { range: "10.42.9.0/29".parse().unwrap(), ..config(&run_dir) };
        drop(sandboxes);
        let sandboxes = Sandboxes::open(&moved).unwrap();
        assert_eq!(sandboxes.0.network.range, config(&run_dir).range, "pods keep the range that they are in");
        remove_everything(&config(&run_dir)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = crate::network::link::Links::open().unwrap();
            links.add_bridge("lan0").await.unwrap();
            links.add_address("lan0", "10.42.1.5".parse().unwrap(), 24).await.unwrap();
        });
        let other = Sandboxes::open(&config(&run_dir)).unwrap();
        let error = other.0.make(spec("a", 8080)).unwrap_err().to_string();
        assert!(error.contains("10.42.1.0/29 overlaps with 10.42.1.5/24 of lan0: set another pod_network"), "{error}");
    });
}

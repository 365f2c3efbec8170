//! What a container sees of the device, and what hostile images and volumes make of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kith::reconciler::container::{Below, ContainerSpec, Mount, Propagation};
use kith::runtime::{Runtime, Shims};

use crate::bench::{self, Bench};

fn mount(source: &Path, destination: &str, read_only: bool) -> Mount {
    Mount {
        source: source.to_owned(),
        below: Vec::new(),
        destination: destination.into(),
        read_only,
        propagation: Propagation::Private,
    }
}

fn below(source: &Path, destination: &str, path: &str, make: bool) -> Mount {
    Mount { below: vec![Below { path: path.into(), make }], ..mount(source, destination, false) }
}

/// Runs a script to its end and tells what it logged.
async fn output(bench: &Bench, shims: &Shims, mut spec: ContainerSpec, script: &str) -> String {
    spec.args = vec!["/bin/sh".into(), "-c".into(), script.into()];
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.exit(shims, &spec).await;
    bench.log(&spec)
}

async fn refusal(bench: &Bench, shims: &Shims, name: &str, wanted: Mount) -> String {
    let mut spec = Bench::spec(name, &["/bin/true"]);
    spec.mounts = vec![wanted];
    let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
    shims.remove(&spec.reference).await.unwrap();
    error
}

#[tokio::test]
async fn folders_and_files_are_seen_and_written() {
    let bench = Bench::new();
    let shims = bench.open();
    let (volume, file) = (bench.path().join("volume"), bench.path().join("file"));
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("old"), "from the device").unwrap();
    fs::write(&file, "one file").unwrap();
    let mut spec = Bench::spec("mounts", &["/bin/true"]);
    spec.read_only_root = true;
    spec.mounts = vec![
        mount(&volume, "/deep/in/volume", false),
        mount(&volume, "/reads", true),
        mount(&file, "/etc/deep/setting", true),
        mount(&volume, "/dev/shm", false),
        mount(&volume, "/srv", false),
    ];
    let script = "cat /deep/in/volume/old /etc/deep/setting; echo; echo new > /deep/in/volume/new && echo wrote; \
        echo no > /reads/no || echo refused; ls /dev/shm; echo x > /srv/here; pwd; \
        grep -E ' (/deep/in/volume|/reads|/dev/shm) ' /proc/self/mountinfo | sort; touch /x || echo closed";
    let log = output(&bench, &shims, spec, script).await;
    for text in ["from the device", "one file", "wrote", "refused", "stdout F new", "stdout F /srv", "closed"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    assert!(volume.join("here").exists() && !volume.join("no").exists());
    let flags: Vec<&str> = log.lines().filter(|line| line.contains(" - ")).collect();
    assert_eq!(flags.len(), 3, "{log}");
    for line in flags {
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
        // A volume of the container tells nobody, and hears nobody.
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
    bench.clear(&shims).await;
    assert!(volume.join("old").exists());
}

#[tokio::test]
async fn links_of_an_image_do_not_lead_a_mount_out_of_it() {
    let bench = Bench::new();
    let shims = bench.open();
    let (volume, victim) = (bench.path().join("volume"), bench.path().join("victim"));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&victim).unwrap();
    let layer = bench.path().join("layer");
    symlink(&victim, layer.join("absolute")).unwrap();
    symlink("../../../../../../../../../../var/tmp", layer.join("relative")).unwrap();
    for (number, destination) in ["/absolute/made", "/relative/made", "/absolute"].into_iter().enumerate() {
        let mut spec = Bench::spec("out", &["/bin/true"]);
        spec.reference.attempt = u32::try_from(number).unwrap();
        spec.mounts = vec![mount(&volume, destination, false)];
        // Made inside of the container's root, or refused as the link leads nowhere there.
        let _ = shims.start(spec, bench.layers()).await;
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    assert!(!Path::new("/var/tmp/made").exists());
    for (name, destination, why) in [
        ("up", "/a/../../b", ".."),
        ("relative", "a", "absolute"),
        ("root", "/", "not a place"),
        ("proc", "/proc/self/attr", "not a place"),
        ("sys", "/sys", "not a place"),
        ("dev", "/dev", "not a place"),
    ] {
        let error = refusal(&bench, &shims, name, mount(&volume, destination, false)).await;
        assert!(error.contains(why), "{destination}: {error}");
    }
    bench.clear(&shims).await;
}

/// CVE-2017-1002101: a program leaves a link in its volume, and the next container asks for what is behind it.
#[tokio::test]
async fn no_link_in_a_volume_leads_a_sub_path_out_of_it() {
    let bench = Bench::new();
    let shims = bench.open();
    let (volume, victim) = (bench.path().join("volume"), bench.path().join("victim"));
    fs::create_dir_all(volume.join("sub/inner")).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
    nix::unistd::chown(&volume, None, Some(nix::unistd::Gid::from_raw(4321))).unwrap();
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("key"), "of the device").unwrap();
    let mut spec = Bench::spec("first", &["/bin/true"]);
    spec.mounts = vec![mount(&volume, "/v", false)];
    let script = format!(
        "ln -s / /v/root; ln -s {} /v/absolute; ln -s ../victim /v/relative; ln -s sub/inner /v/fine; \
         ln -s /proc/self/root /v/magic; ln -s {}/key /v/file; echo done",
        victim.display(),
        victim.display()
    );
    assert!(output(&bench, &shims, spec, &script).await.contains("done"));
    for (name, path) in [
        ("a", "absolute"),
        ("b", "relative"),
        ("c", "root"),
        ("d", "magic"),
        ("e", "file"),
        ("f", "../victim"),
        ("g", "relative/key"),
        ("h", "sub/../../victim"),
    ] {
        let error = refusal(&bench, &shims, name, below(&volume, "/w", path, true)).await;
        assert!(error.contains("leads out"), "{path}: {error}");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    let error = refusal(&bench, &shims, "missing", below(&volume, "/w", "absent", false)).await;
    assert!(error.contains("there is no absent"), "{error}");
    let mut spec = Bench::spec("second", &["/bin/true"]);
    spec.mounts = vec![below(&volume, "/w", "fine", false), below(&volume, "/made", "new/folder", true)];
    let log = output(&bench, &shims, spec, "echo in > /w/it; echo in > /made/it; echo done").await;
    assert!(log.contains("done"), "{log}");
    assert!(volume.join("sub/inner/it").exists());
    let made = nix::sys::stat::stat(&volume.join("new/folder")).unwrap();
    assert_eq!((made.st_mode & 0o7777, made.st_gid), (0o2770, 4321));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_volume_carries_no_devices_and_no_setuid_programs() {
    let bench = Bench::new();
    let shims = bench.open();
    let volume = bench.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let device = volume.join("null");
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
    nix::sys::stat::mknod(&device, kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
    nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, &device, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
        .unwrap();
    fs::copy(bench::busybox(), volume.join("id")).unwrap();
    fs::set_permissions(volume.join("id"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut spec = Bench::spec("dev", &["/bin/true"]);
    (spec.uid, spec.gid) = (1000, 1000);
    spec.mounts = vec![mount(&volume, "/v", false)];
    let log = output(&bench, &shims, spec, "cat /v/null || echo refused; /v/id -u").await;
    assert!(log.contains("refused") && log.contains("stdout F 1000"), "{log}");
    bench.clear(&shims).await;
}

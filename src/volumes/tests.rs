use std::fs::File;
use std::os::unix::fs::symlink;

use super::*;
use crate::reconciler::volume::{Bytes, HostKind, VolumeFile};

struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    volumes: Volumes,
    pod: PodRef,
}

impl Bench {
    fn new() -> Self {
        // As the service has it: nothing may depend on it.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let places = Places { pods: path.join("pods"), claims: path.join("volumes"), host_paths: Vec::new() };
        let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: "u1".into() };
        Self { volumes: Volumes::open(places).unwrap(), _folder: folder, path, pod }
    }

    fn make(&self, name: &str, kind: VolumeKind, group: Option<u32>, version: &str) -> Result<PathBuf, String> {
        let files = matches!(kind, VolumeKind::Files { .. });
        let group = group.map(|id| Group { id, on_root_mismatch: false });
        let spec = VolumeSpec { name: name.into(), kind, group, version: version.into() };
        self.volumes.make(&self.pod, &[spec])?;
        let places = self.volumes.places();
        Ok(if files { places.files("u1", name) } else { places.volume("u1", name) })
    }

    fn made(&self) -> Vec<(String, String)> {
        self.volumes.observe().unwrap().remove("u1").unwrap_or_default().into_iter().collect()
    }
}

fn files(memory: bool, all: &[(&str, &str)]) -> VolumeKind {
    let file = |(path, text): &(&str, &str)| VolumeFile {
        path: (*path).into(),
        mode: 0o400,
        content: Bytes(text.as_bytes().to_vec()),
    };
    VolumeKind::Files { memory, files: all.iter().map(file).collect() }
}

fn pair(name: &str, version: &str) -> (String, String) {
    (name.into(), version.into())
}

#[test]
fn an_empty_volume_belongs_to_everybody_and_to_its_group() {
    let bench = Bench::new();
    let disk = bench.make("scratch", VolumeKind::Disk, None, "disk").unwrap();
    assert_eq!(fs::metadata(&disk).unwrap().mode() & 0o7777, 0o777);
    let shared = bench.make("shared", VolumeKind::Disk, Some(77), "disk").unwrap();
    let found = fs::metadata(&shared).unwrap();
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o2777, 77));
    fs::write(disk.join("kept"), "x").unwrap();
    bench.make("scratch", VolumeKind::Disk, None, "disk").unwrap();
    assert!(disk.join("kept").exists());
    // A program can not make its volume look like another.
    symlink("..v-9", disk.join("..data")).unwrap();
    assert_eq!(bench.made(), [pair("scratch", "disk"), pair("shared", "disk")]);
    bench.volumes.remove("u1").unwrap();
    bench.volumes.remove("u1").unwrap();
    assert!(bench.volumes.observe().unwrap().is_empty());
    assert_eq!(fs::read_dir(bench.path.join("pods")).unwrap().count(), 0);
}

#[test]
fn memory_is_bounded_and_gone_after_removal() {
    let bench = Bench::new();
    let kind = || VolumeKind::Memory { size: Some(64 << 10) };
    let folder = bench.make("tmp", kind(), Some(5), "memory").expect("this test needs root: it mounts");
    bench.make("tmp", kind(), Some(5), "memory").unwrap();
    assert_eq!(bench.made(), [pair("tmp", "memory")]);
    fs::write(folder.join("fits"), vec![1; 32 << 10]).unwrap();
    let error = fs::write(folder.join("large"), vec![1; 128 << 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    // As after a reboot: what was mounted is gone, and it is not taken for a folder on the disk.
    umount2(&folder, MntFlags::MNT_DETACH).unwrap();
    assert_ne!(bench.made(), [pair("tmp", "memory")]);
    bench.make("tmp", kind(), Some(5), "memory").unwrap();
    assert!(!folder.join("fits").exists() && is_mounted(&folder).unwrap());
    bench.volumes.remove("u1").unwrap();
    assert!(!folder.exists());
}

#[test]
fn files_are_exchanged_at_once_and_a_full_disk_leaves_the_old_ones() {
    for memory in [false, true] {
        let bench = Bench::new();
        let first = files(memory, &[("a", "one"), ("deep/er/b", "two")]);
        let folder = bench.make("cfg", first, Some(9), "v1").expect("this test needs root: it mounts");
        assert_eq!(bench.made(), [pair("cfg", "v1")]);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "one");
        assert_eq!(fs::read_link(folder.join("a")).unwrap(), Path::new("..data/a"));
        let found = fs::metadata(folder.join("deep/er/b")).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o440, 9));
        for open in [folder.clone(), folder.join("..data/"), folder.join("deep/er")] {
            assert_eq!(fs::metadata(&open).unwrap().mode() & 0o755, 0o755, "{}", open.display());
        }
        // Whoever opened a file before reads it to its end.
        let mut open = File::open(folder.join("a")).unwrap();
        bench.make("cfg", files(memory, &[("a", "uno"), ("c", "three")]), Some(9), "v2").unwrap();
        assert_eq!(bench.made(), [pair("cfg", "v2")]);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "uno");
        assert_eq!(io::read_to_string(&mut open).unwrap(), "one");
        let mut names: Vec<String> =
            fs::read_dir(&folder).unwrap().map(|entry| name_of(&entry.unwrap().path())).collect();
        names.sort();
        assert_eq!(names, ["..data", "..v-v2", "a", "c"]);
        // A step that can not be done: a name that is too long stands for a disk that is full.
        let long = "x".repeat(300);
        let error = bench.make("cfg", files(memory, &[("a", "tre"), (&long, "")]), None, "v3").unwrap_err();
        assert!(error.starts_with("MountVolume.SetUp failed for volume \"cfg\" : "), "{error}");
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "uno");
        assert_eq!(bench.made(), [pair("cfg", "v2")]);
        assert!(!folder.join("..v-v3").exists());
        bench.volumes.remove("u1").unwrap();
    }
}

#[test]
fn a_claim_outlives_its_pods_and_changes_hands() {
    let bench = Bench::new();
    let claim = || VolumeKind::Claim { namespace: "shop".into(), name: "db".into() };
    bench.make("data", claim(), None, "seen").unwrap();
    let folder = bench.path.join("volumes/shop/db");
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/row"), "1").unwrap();
    let victim = bench.path.join("victim");
    fs::write(&victim, "").unwrap();
    let before = fs::metadata(&victim).unwrap();
    symlink(&victim, folder.join("sub/link")).unwrap();
    assert_eq!(bench.made(), [pair("data", "seen")]);
    bench.volumes.remove("u1").unwrap();
    bench.make("data", claim(), Some(42), "seen").unwrap();
    let row = fs::metadata(folder.join("sub/row")).unwrap();
    assert_eq!((row.gid(), row.mode() & 0o060), (42, 0o060));
    let after = fs::metadata(&victim).unwrap();
    assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()), "a link was followed");
    assert!(bench.volumes.usage("u1", "none").is_err());
    assert!(owner::usage(&folder).unwrap() > 0);
}

#[test]
fn a_path_of_the_device_is_what_the_pod_expects_or_is_refused() {
    let bench = Bench::new();
    let root = bench.path.join("allowed");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink("/etc", root.join("out")).unwrap();
    let check = |path: &str, kind| host::check(&root, path, kind).map_err(|error| error.to_string());
    check("", HostKind::Folder).unwrap();
    check("file", HostKind::File).unwrap();
    check("file", HostKind::Any).unwrap();
    check("new/deep", HostKind::FolderOrCreate).unwrap();
    check("new/file", HostKind::FileOrCreate).unwrap();
    assert!(root.join("new/deep").is_dir());
    assert_eq!(fs::metadata(root.join("new/file")).unwrap().mode() & 0o777, 0o644);
    for (path, kind, why) in [
        ("file", HostKind::Folder, "not a directory"),
        ("new", HostKind::File, "not a file"),
        ("file", HostKind::Socket, "not a socket"),
        ("file", HostKind::CharDevice, "not a character device"),
        ("file", HostKind::BlockDevice, "not a block device"),
        ("absent", HostKind::Folder, "does not exist"),
        ("out", HostKind::Any, "leads out"),
        ("out/made", HostKind::FolderOrCreate, "leads out"),
        ("out/made", HostKind::FileOrCreate, "leads out"),
    ] {
        let error = check(path, kind).unwrap_err();
        assert!(error.contains(why) && error.contains(path), "{path}: {error}");
    }
    assert!(!Path::new("/etc/made").exists());
}

#[test]
fn what_was_going_when_the_power_went_is_removed_by_the_next_agent() {
    let bench = Bench::new();
    bench.make("scratch", VolumeKind::Disk, None, "disk").unwrap();
    let pods = bench.path.join("pods");
    fs::rename(pods.join("u1"), pods.join(".gone-u1")).unwrap();
    fs::create_dir_all(pods.join("u2/volumes/.new-x")).unwrap();
    let again = Volumes::open(bench.volumes.places().clone()).unwrap();
    assert!(!pods.join(".gone-u1").exists());
    assert_eq!(again.observe().unwrap(), [("u2".to_owned(), Made::new())].into());
}

//! Archives are made here, good ones and hostile ones. Needs root (owners, device nodes, mounts),
//! Debian's `busybox-static` and `skopeo`.

#![expect(clippy::disallowed_methods, reason = "tests read and write files")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::*;
use crate::resource::ImageUser;

const NOW: Timestamp = Timestamp(1_769_843_109_000);

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds a member with exactly this path, which the library would not write.
    fn raw(mut self, path: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.raw(path, EntryType::Regular, "", content.as_bytes())
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

fn config() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/bin/sh".into()],
        cmd: vec!["-c".into(), "true".into()],
        env: vec!["A=1".into()],
        working_dir: "/srv".into(),
        user: ImageUser { uid: 7, gid: 8 },
        stop_signal: "SIGINT".into(),
    }
}

fn unpacked(store: &ImageStore, tar: &[u8]) -> Result<PathBuf, ImageError> {
    let image = store.import(tar, &name("test"), &config(), NOW)?;
    Ok(store.unpack(&image)?.remove(0))
}

#[test]
fn an_imported_image_is_resolved_listed_and_unpacked() {
    let (_dir, store) = store();
    let tar = Tar::new().file("./etc/hello", "hi\n").raw("bin/sh", EntryType::Symlink, "hello", b"").done();
    for (text, bytes) in [("plain:1", tar.clone()), ("zipped:1", gzip(&tar))] {
        let image = store.import(&*bytes, &name(text), &config(), NOW).unwrap();
        assert_eq!(store.resolve(&name(text)).unwrap(), Some(image.clone()));
        assert_eq!((image.config.clone(), image.created), (config(), NOW));
        let pinned = name(&format!("{}@{}", image.name.repository(), image.digest));
        assert_eq!(store.resolve(&pinned).unwrap().as_ref(), Some(&image));
        let layers = store.unpack(&image).unwrap();
        assert_eq!(fs::read_to_string(layers[0].join("etc/hello")).unwrap(), "hi\n");
        assert_eq!(fs::read_link(layers[0].join("bin/sh")).unwrap().to_str(), Some("hello"));
        assert_eq!(store.unpack(&image).unwrap(), layers);
    }
    let listed: Vec<String> = store.list().unwrap().iter().map(|image| image.name.to_string()).collect();
    assert_eq!(listed, ["plain:1", "zipped:1"]);
    // One tar, one unpacked layer, however it was compressed.
    assert_eq!(fs::read_dir(store.layer_dir()).unwrap().count(), 1);
    assert!(store.resolve(&name("plain:2")).unwrap().is_none());
}

#[test]
fn what_would_leave_the_folder_is_refused_by_name() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let outside = outside.to_str().unwrap();
    let regular = EntryType::Regular;
    let cases = [
        ("absolute", Tar::new().raw("/evil", regular, "", b"x"), "/evil"),
        ("dots", Tar::new().raw("a/../../evil", regular, "", b"x"), "a/../../evil"),
        ("link out", Tar::new().raw("esc", EntryType::Symlink, "../../..", b"").file("esc/evil", "x"), "esc/evil"),
        ("absolute link", Tar::new().raw("esc", EntryType::Symlink, "/var/tmp", b"").file("esc/evil", "x"), "esc/evil"),
        ("hard link out", Tar::new().raw("hard", EntryType::Link, outside, b""), "hard"),
        ("hard link dots", Tar::new().raw("hard", EntryType::Link, "../../../outside", b""), "hard"),
        (
            "link through link",
            Tar::new().raw("esc", EntryType::Symlink, "/", b"").raw("hard", EntryType::Link, "esc/etc/passwd", b""),
            "hard",
        ),
        ("character device", Tar::new().raw("dev/null", EntryType::Char, "", b""), "dev/null"),
        ("block device", Tar::new().raw("dev/sda", EntryType::Block, "", b""), "dev/sda"),
        ("whiteout of dots", Tar::new().file(".wh...", ""), ".wh..."),
        ("through a file", Tar::new().file("f", "x").file("f/g", "x"), "f/g"),
        ("loop", Tar::new().raw("l", EntryType::Symlink, "l", b"").file("l/x", "x"), "l/x"),
        ("unknown type", Tar::new().raw("odd", EntryType::new(b'Q'), "", b""), "odd"),
    ];
    for (case, tar, entry) in cases {
        let error = unpacked(&store, &tar.done()).unwrap_err();
        let ImageError::Refused { entry: found, .. } = &error else { panic!("{case}: {error}") };
        assert_eq!(found, entry, "{case}: {error}");
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
    // Nothing half-made stays behind.
    let left: Vec<_> = fs::read_dir(store.layer_dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn links_within_the_folder_and_later_members_win() {
    let (_dir, store) = store();
    let tar = Tar::new()
        .raw("usr/lib/", EntryType::Directory, "", b"")
        .raw("lib", EntryType::Symlink, "usr/lib", b"")
        .file("lib/libc", "c")
        .raw("hard", EntryType::Link, "./usr/lib/libc", b"")
        .file("twice", "one")
        .file("twice", "two")
        .raw("folder/", EntryType::Directory, "", b"")
        .file("folder/in", "x")
        .file("folder", "now a file")
        .done();
    let root = unpacked(&store, &tar).unwrap();
    assert_eq!(fs::read_to_string(root.join("usr/lib/libc")).unwrap(), "c");
    assert_eq!(fs::metadata(root.join("hard")).unwrap().ino(), fs::metadata(root.join("usr/lib/libc")).unwrap().ino());
    assert_eq!(fs::read_to_string(root.join("twice")).unwrap(), "two");
    assert_eq!(fs::read_to_string(root.join("folder")).unwrap(), "now a file");
}

#[test]
fn owners_modes_times_and_long_names_are_kept() {
    let (_dir, store) = store();
    let long = format!("deep/{}/{}", "a".repeat(120), "b".repeat(120));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o4755);
    header.set_uid(1234);
    header.set_gid(4321);
    header.set_mtime(1_000_000);
    header.set_size(1);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let xattrs = [("SCHILY.xattr.user.note", &b"kept"[..]), ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..])];
    builder.append_pax_extensions(xattrs).unwrap();
    builder.append_data(&mut header, "tool", &b"y"[..]).unwrap();
    let root = unpacked(&store, &builder.into_inner().unwrap()).unwrap();
    let found = fs::metadata(root.join(&long)).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777, found.mtime()), (1234, 4321, 0o4755, 1_000_000));
    assert_eq!(xattr(&root.join("tool"), c"user.note"), Some(b"kept".to_vec()));
    assert_eq!(xattr(&root.join("tool"), c"trusted.overlay.redirect"), None);
    // Closed to everyone else, as setuid bits are kept.
    assert_eq!(fs::metadata(&store.dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[expect(unsafe_code, reason = "reads an attribute")]
fn xattr(path: &Path, key: &std::ffi::CStr) -> Option<Vec<u8>> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut value = vec![0_u8; 256];
    // SAFETY: terminated strings and a buffer with its length.
    let count = unsafe { nix::libc::getxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(count).ok()?);
    Some(value)
}

#[test]
fn whiteouts_hide_what_lower_layers_have() {
    let (_dir, store) = store();
    let tar = Tar::new()
        .file("etc/.wh.gone", "")
        .raw("var/", EntryType::Directory, "", b"")
        .file("var/.wh..wh..opq", "")
        .file("var/new", "n")
        .file("etc/kept", "k")
        .file("etc/.wh.kept", "")
        .file(".wh..wh.plnk", "")
        .done();
    let root = unpacked(&store, &tar).unwrap();
    let gone = fs::symlink_metadata(root.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr(&root.join("var"), c"trusted.overlay.opaque"), Some(b"y".to_vec()));
    assert_eq!(fs::read_to_string(root.join("etc/kept")).unwrap(), "k");
    assert!(!root.join(".wh..wh.plnk").exists());
}

#[test]
fn extended_headers_can_not_exhaust_memory_or_confuse_readers() {
    let (_dir, store) = store();
    let huge = vec![b'a'; 2 << 20];
    let error =
        unpacked(&store, &Tar::new().raw("x", EntryType::GNULongName, "", &huge).file("y", "").done()).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("size", &b"99"[..])]).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, "two-faced", &b"x"[..]).unwrap();
    let error = unpacked(&store, &builder.into_inner().unwrap()).unwrap_err();
    assert!(matches!(&error, ImageError::Refused { entry, .. } if entry == "two-faced"), "{error}");
}

#[test]
fn damage_is_found_and_repaired_by_loading_again() {
    let (_dir, store) = store();
    let tar = Tar::new().file("f", "content").done();
    let image = store.import(&*tar, &name("x"), &config(), NOW).unwrap();
    let blob = store.blob_dir().join(image.layers[0].blob.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let error = store.unpack(&image).unwrap_err();
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    assert_eq!(fs::read_dir(store.layer_dir()).unwrap().count(), 0);
    let image = store.import(&*tar, &name("x"), &config(), NOW).unwrap();
    store.unpack(&image).unwrap();
}

#[test]
fn what_is_no_image_is_refused_with_a_hint() {
    let (dir, store) = store();
    for bytes in [&b"hello"[..], &[0; 4096], &gzip(b"not a tar, but long enough to look like one, is it not?")] {
        assert!(store.import(bytes, &name("x"), &config(), NOW).is_err());
        assert!(store.load_reader(bytes, "test", None).is_err());
    }
    let error = store.import(&[0x28, 0xb5, 0x2f, 0xfd, 0][..], &name("x"), &config(), NOW).unwrap_err().to_string();
    assert!(error.contains("zstd"), "{error}");
    let rootfs = Tar::new().file("etc/passwd", "root:x:0:0::/:/bin/sh").done();
    let error = store.load_reader(&*rootfs, "rootfs.tar", None).unwrap_err().to_string();
    assert!(error.contains("kith image import"), "{error}");
    let error = store.load(&dir.path().join("absent.tar"), None).unwrap_err().to_string();
    assert!(error.contains("absent.tar"), "{error}");
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn removing_clears_what_nobody_needs_and_spares_what_is_in_use() {
    let (_dir, store) = store();
    let shared = Tar::new().file("f", "shared").done();
    let one = store.import(&*shared, &name("one"), &config(), NOW).unwrap();
    store.import(&*shared, &name("two"), &config(), NOW).unwrap();
    let layer = store.unpack(&one).unwrap().remove(0);
    store.remove(&name("one")).unwrap();
    assert!(layer.exists() && store.resolve(&name("two")).unwrap().is_some());
    // As a container's shim holds it.
    let held = fs::File::open(&layer).unwrap();
    held.lock_shared().unwrap();
    store.remove(&name("two")).unwrap();
    assert!(layer.exists());
    drop(held);
    assert!(matches!(store.remove(&name("two")), Err(ImageError::Unknown(_))));
    let lock = store.lock().unwrap();
    store.clear_unnamed(&lock).unwrap();
    assert!(!layer.exists());
    assert_eq!(fs::read_dir(store.blob_dir()).unwrap().count(), 0);
}

#[test]
fn processes_that_import_and_remove_at_once_lose_nothing() {
    let (_dir, store) = store();
    let keep = store.import(&*Tar::new().file("f", "keep").done(), &name("keep"), &config(), NOW).unwrap();
    std::thread::scope(|scope| {
        let work = |worker: u32| {
            let store = &store;
            move || {
                for round in 0..5 {
                    let name = name(&format!("w{worker}:{round}"));
                    let image = store
                        .import(&*Tar::new().file("f", &format!("{round}")).done(), &name, &config(), NOW)
                        .unwrap();
                    store.unpack(&image).unwrap();
                    store.remove(&name).unwrap();
                }
            }
        };
        let workers = [0, 1, 2, 3].map(|worker| scope.spawn(work(worker)));
        // Whoever looks meanwhile sees what there was at one moment.
        while workers.iter().any(|worker| !worker.is_finished()) {
            assert!(store.list().unwrap().contains(&keep));
            store.resolve(&name("w0:3")).unwrap();
        }
    });
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&keep));
    store.unpack(&keep).unwrap();
}

#[test]
fn users_are_looked_up_in_the_image() {
    let (_dir, store) = store();
    let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n";
    let tar = Tar::new().file("./etc/passwd", passwd).file("etc/group", "staff:x:50:web\n").done();
    let image = store.import(&*tar, &name("x"), &config(), NOW).unwrap();
    let layers = store.manifest(&image.digest).unwrap().layers;
    for (text, uid, gid) in [
        ("", 0, 0),
        ("web", 1000, 1001),
        ("1000", 1000, 1001),
        ("77", 77, 0),
        ("web:staff", 1000, 50),
        ("5:6", 5, 6),
        ("web:0", 1000, 0),
    ] {
        assert_eq!(store.user(text, &layers).unwrap(), ImageUser { uid, gid }, "{text}");
    }
    assert!(store.user("nobody", &layers).unwrap_err().to_string().contains("nobody"));
}

#[test]
fn archives_come_back_as_they_went() {
    let (dir, store) = store();
    let image = store.import(&*gzip(&Tar::new().file("f", "x").done()), &name("a/b:1"), &config(), NOW).unwrap();
    store.import(&*Tar::new().file("f", "y").done(), &name("c"), &config(), NOW).unwrap();
    for format in [Format::Oci, Format::Docker] {
        let path = dir.path().join("saved.tar");
        store.save(&[name("a/b:1"), name("c")], &path, format).unwrap();
        let other = ImageStore::open(&dir.path().join(format!("{format:?}"))).unwrap();
        let loaded = other.load(&path, None).unwrap();
        assert_eq!(loaded.iter().map(|image| image.name.to_string()).collect::<Vec<_>>(), ["a/b:1", "c:latest"]);
        let back = other.resolve(&name("a/b:1")).unwrap().unwrap();
        assert_eq!((&back.config, back.created, &back.layers[0].tar), (&image.config, NOW, &image.layers[0].tar));
        if format == Format::Oci {
            assert_eq!(back.digest, image.digest);
        }
        assert_eq!(fs::read_to_string(other.unpack(&back).unwrap()[0].join("f")).unwrap(), "x");
        assert!(matches!(other.load(&path, Some(&name("z"))), Err(ImageError::Unsupported { .. })));
    }
    assert!(matches!(
        store.save(&[name("nope")], &dir.path().join("no.tar"), Format::Oci),
        Err(ImageError::Unknown(_))
    ));
    assert!(!dir.path().join("no.tar").exists());
}

/// Copies between what Kith and what the rest of the world writes.
fn skopeo(from: &str, to: &str) {
    let output = Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", from, to]).output();
    let output = output.expect("install it first: apt-get install skopeo");
    assert!(output.status.success(), "{from} -> {to}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn skopeo_reads_ours_and_we_read_its() {
    let (dir, store) = store();
    let at = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let image = store.import(&*gzip(&Tar::new().file("f", "x").done()), &name("hello:1"), &config(), NOW).unwrap();
    store.save(&[name("hello:1")], Path::new(&at("ours.tar")), Format::Oci).unwrap();
    store.save(&[name("hello:1")], Path::new(&at("docker.tar")), Format::Docker).unwrap();
    skopeo(&format!("oci-archive:{}:hello:1", at("ours.tar")), &format!("oci:{}:hello:1", at("layout")));
    skopeo(
        &format!("docker-archive:{}", at("docker.tar")),
        &format!("docker-archive:{}:docker.io/library/hello:1", at("theirs.tar")),
    );
    skopeo(&format!("oci:{}:hello:1", at("layout")), &format!("oci-archive:{}:hello:1", at("theirs-oci.tar")));
    for file in ["layout", "theirs.tar", "theirs-oci.tar"] {
        let other = ImageStore::open(Path::new(&at(&format!("store-{file}")))).unwrap();
        let loaded = other.load(Path::new(&at(file)), None).unwrap();
        assert_eq!(loaded.len(), 1, "{file}");
        assert_eq!(loaded[0].name, name("hello:1"), "{file}");
        assert_eq!(loaded[0].config, image.config, "{file}");
        assert_eq!(fs::read_to_string(other.unpack(&loaded[0]).unwrap()[0].join("f")).unwrap(), "x", "{file}");
    }
}

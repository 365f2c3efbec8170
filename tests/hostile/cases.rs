//! Layers that mean harm.

use crate::archive::{Tar, digest, gzip, oci, zstd};
use crate::judge::Verdict::{self, Harmless, Refused};
use crate::judge::{Bench, settle};

type Case = (String, Vec<Vec<u8>>, Verdict);

fn one(name: impl Into<String>, tar: Tar, verdict: Verdict) -> Case {
    (name.into(), vec![tar.end()], verdict)
}

/// Paths that lead out by themselves.
fn paths(canary: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [
        "/etc/evil",
        "//etc/evil",
        canary,
        "../evil",
        "a/../../evil",
        "a/b/../../../evil",
        "./../evil",
        "..",
        "a/..",
        "../",
        "/",
        "a/./../../evil",
        "../images-canary",
        "../../canary",
        ".../../evil",
        "a//../..//../evil",
    ] {
        for (kind, word) in [(b'0', "file"), (b'5', "folder"), (b'2', "link"), (b'1', "hard link")] {
            let tar = Tar::new().file("real", "x").member(path.as_bytes(), kind, b"real", b"");
            cases.push(one(format!("{word} at {path}"), tar, Refused("is refused")));
        }
    }
    for (path, content) in
        [(&b"a\\..\\..\\evil"[..], "x"), (b"....", "x"), (b"a/\xff\xfe", "x"), (b"C:/evil", "x"), (b"~/evil", "x")]
    {
        let tar = Tar::new().member(path, b'0', b"", content.as_bytes());
        cases.push(one(format!("odd name {}", String::from_utf8_lossy(path)), tar, Harmless));
    }
    cases
}

/// Links that lead out, and members that go through them.
fn links(canary: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let out = "../../../../../../../..";
    for target in ["/", "/tmp", out, "..", "../..", canary, "/proc/self/root", "/proc/self/cwd", "/dev/shm"] {
        cases.push(one(format!("only a link to {target}"), Tar::new().link("esc", target), Harmless));
        for (through, word) in [
            ("esc/evil", "file"),
            ("esc/a/b/evil", "deep file"),
            ("esc/.wh.canary", "whiteout"),
            ("esc/.wh..wh..opq", "opaque mark"),
        ] {
            let tar = Tar::new().link("esc", target).file(through, "x");
            cases.push(one(format!("{word} through a link to {target}"), tar, Refused("is refused")));
        }
        let tar = Tar::new().link("a", target).link("b", "a").file("b/evil", "x");
        cases.push(one(format!("through two links to {target}"), tar, Refused("is refused")));
        // The last part of a path is never followed: the link itself is replaced.
        let tar = Tar::new().link("esc", target).file("esc", "replaced");
        cases.push(one(format!("a file over a link to {target}"), tar, Harmless));
        let tar = Tar::new().link("esc", target).folder("esc").file("esc/in", "x");
        cases.push(one(format!("a folder over a link to {target}"), tar, Harmless));
        let tar = Tar::new().link("esc", target).with(b"esc", b'5', b"", b"", |header| header.set_mode(0o777));
        cases.push(one(format!("a mode through a link to {target}"), tar, Harmless));
    }
    for target in ["/etc/passwd", canary, "../../../canary", "../../images-canary", "/proc/self/exe", "/dev/sda"] {
        let tar = Tar::new().hard("hard", target).file("hard", "overwritten");
        cases.push(one(format!("a hard link to {target}"), tar, Refused("is refused")));
    }
    let through = Tar::new().link("esc", "/").hard("hard", "esc/etc/passwd");
    cases.push(one("a hard link through a link", through, Refused("is refused")));
    let tar = Tar::new().link("esc", canary).hard("hard", "esc").file("hard", "x");
    cases.push(one("a hard link to a link that leads out", tar, Harmless));
    cases.push(one("a hard link to itself", Tar::new().hard("self", "self"), Refused("is refused")));
    cases.push(one("a hard link to a folder", Tar::new().folder("f").hard("h", "f"), Refused("is refused")));
    cases.push(one("a hard link to nothing", Tar::new().hard("h", "absent"), Refused("is refused")));
    cases.push(one(
        "links in a circle",
        Tar::new().link("a", "b").link("b", "a").file("a/x", "x"),
        Refused("is refused"),
    ));
    let mut chain = Tar::new().folder("l0");
    for number in 1..60 {
        chain = chain.link(&format!("l{number}"), &format!("l{}", number - 1));
    }
    cases.push(one("sixty links in a row", chain.file("l59/x", "x"), Refused("too many links")));
    cases.push(one("an empty link", Tar::new().link("empty", ""), Refused("unpack")));
    cases
}

/// Nodes, modes and attributes.
fn nodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, name) in [(b'3', "character"), (b'4', "block")] {
        for (path, major, minor) in
            [("dev/null", 1, 3), ("dev/sda", 8, 0), ("mem", 1, 1), ("dev/zero", 0, 0), ("etc/x", 0xff_ffff, 0xff_ffff)]
        {
            let tar = Tar::new().with(path.as_bytes(), kind, b"", b"", |header| {
                header.set_device_major(major % 0o777_7777).unwrap();
                header.set_device_minor(minor % 0o777_7777).unwrap();
            });
            cases.push(one(format!("{name} device {major}:{minor} at {path}"), tar, Refused("device nodes")));
        }
    }
    for kind in [b'7', b'8', b'A', b'D', b'M', b'N', b'V', b'Z', 0xff] {
        let verdict = if kind == b'7' { Harmless } else { Refused("is refused") };
        cases.push(one(format!("a member of type {kind}"), Tar::new().member(b"odd", kind, b"", b""), verdict));
    }
    cases.push(one("a pipe", Tar::new().member(b"pipe", b'6', b"", b""), Harmless));
    for mode in [0o4755, 0o2755, 0o6777, 0o1777, 0o7777, 0] {
        let tar = Tar::new().with(b"tool", b'0', b"", b"x", |header| header.set_mode(mode));
        cases.push(one(format!("mode {mode:o}"), tar, Harmless));
    }
    let capability = [1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    for (key, value) in [
        ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.security.ima", b"x"),
        ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
        ("SCHILY.xattr.user.fine", b"x"),
        ("SCHILY.xattr.security.capability", &capability),
        ("LIBARCHIVE.xattr.trusted.overlay.redirect", b"L2V0Yw"),
    ] {
        let tar = Tar::new().pax(&[(key, value)]).file("tool", "x");
        cases.push(one(format!("attribute {key}"), tar, Harmless));
        let tar = Tar::new().pax(&[(key, value)]).link("link", "/etc");
        cases.push(one(format!("attribute {key} of a link"), tar, Harmless));
    }
    cases.push(one(
        "a huge attribute",
        Tar::new().pax(&[("SCHILY.xattr.user.x", &vec![7; 100_000][..])]).file("f", "x"),
        Refused("unpack"),
    ));
    cases.push(one(
        "a bad capability",
        Tar::new().pax(&[("SCHILY.xattr.security.capability", b"x")]).file("f", "x"),
        Refused("unpack"),
    ));
    cases
}

/// Whiteouts and opaque marks.
fn whiteouts() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [".wh..", ".wh...", ".wh.", "a/.wh...", "../.wh.canary", "/.wh.etc"] {
        cases.push(one(format!("whiteout {path}"), Tar::new().folder("a").file(path, ""), Refused("is refused")));
    }
    for path in [".wh.etc", ".wh.proc", "a/.wh.b", ".wh..wh..opq", "a/.wh..wh..opq", ".wh..wh.plnk", ".wh..wh.aufs"] {
        cases.push(one(format!("whiteout {path}"), Tar::new().folder("a").file(path, ""), Harmless));
    }
    let tar = Tar::new().file("f", "mine").file(".wh.f", "").file("d/x", "y").file(".wh.d", "");
    cases.push(one("whiteouts of what the layer has", tar, Harmless));
    let tar = Tar::new().member(b".wh.f", b'2', b"/etc", b"").member(b".wh..wh..opq", b'5', b"", b"");
    cases.push(one("whiteouts that are links and folders", tar, Harmless));
    let deep = Tar::new().file(".wh.f", "").file("f/inside", "x");
    cases.push(one("a file below a whiteout", deep, Refused("is refused")));
    cases.push(one("a hard link to a whiteout", Tar::new().file(".wh.f", "").hard("h", "f"), Refused("is refused")));
    cases
}

/// Names and headers.
fn headers() -> Vec<Case> {
    let mut cases = Vec::new();
    let long = |length: usize| vec![b'n'; length];
    for (length, verdict) in [
        (255, Harmless),
        (256, Refused("longer than 255")),
        (4097, Refused("longer than 4096")),
        (100_000, Refused("longer than 4096")),
    ] {
        let tar = Tar::new().member(b"x", b'L', b"", &long(length)).file("short", "x");
        cases.push(one(format!("GNU name of {length}"), tar, verdict));
        let tar = Tar::new().pax(&[("path", &long(length))]).file("short", "x");
        cases.push(one(format!("PAX name of {length}"), tar, verdict));
    }
    let many: Vec<u8> = b"d/".iter().copied().cycle().take(4094).collect();
    cases.push(one("two thousand folders deep", Tar::new().pax(&[("path", &many)]).file("x", "x"), Harmless));
    cases.push(one(
        "an endless name",
        Tar::new().member(b"x", b'L', b"", &long(2 << 20)).file("y", "x"),
        Refused("longer than"),
    ));
    cases.push(one(
        "a PAX header of 2 MiB",
        Tar::new().pax(&[("comment", &long(2 << 20))]).file("y", "x"),
        Refused("longer than"),
    ));
    for (word, records) in [
        ("path out", ("path", &b"../../evil"[..])),
        ("absolute path", ("path", b"/etc/evil")),
        ("zero in path", ("path", b"a\0b")),
        ("empty path", ("path", b"")),
    ] {
        cases.push(one(format!("PAX {word}"), Tar::new().pax(&[records]).file("x", "x"), Refused("is refused")));
    }
    let out = Tar::new().pax(&[("linkpath", b"../../canary")]).hard("h", "x");
    cases.push(one("PAX hard link out", out, Refused("is refused")));
    let two = Tar::new().member(b"x", b'L', b"", b"../evil").pax(&[("path", b"fine")]).file("x", "x");
    cases.push(one("two long names", two, Harmless));
    for (key, value, verdict) in [
        ("size", &b"1000000000000"[..], Refused("another size")),
        ("size", b"-1", Refused("not a number")),
        ("size", b"0", Refused("another size")),
        ("size", b"18446744073709551616", Refused("not a number")),
        ("uid", b"-1", Harmless),
        ("uid", b"4294967296", Refused("32-bit")),
        ("mtime", b"99999999999999999999", Harmless),
        ("mtime", b"nan", Harmless),
        ("GNU.sparse.major", b"1", Refused("sparse")),
        ("GNU.sparse.realsize", b"1099511627776", Refused("sparse")),
        ("GNU.sparse.map", b"0,1", Refused("sparse")),
        ("hdrcharset", b"BINARY", Harmless),
    ] {
        let tar = Tar::new().pax(&[(key, value)]).file("f", "x");
        cases.push(one(format!("PAX {key}={}", String::from_utf8_lossy(value)), tar, verdict));
    }
    for body in [
        &b"0 path=x\n"[..],
        b"9999 path=x\n",
        b"-5 path=x\n",
        b"x",
        b"11 path=abc",
        b"6 a=b\n6 a",
        b"18446744073709551615 p=x\n",
    ] {
        let tar = Tar::new().member(b"pax", b'x', b"", body).file("f", "x");
        cases.push(one(format!("PAX record {}", String::from_utf8_lossy(body)), tar, Refused("extended header")));
    }
    let sparse = Tar::new().member(b"sparse", b'S', b"", &[0; 512]);
    cases.push(one("an old sparse file", sparse, Refused("is refused")));
    let global = Tar::new().member(b"g", b'g', b"", b"20 path=../../evil1\n").file("f", "x");
    cases.push(one("a global header with a path", global, Harmless));
    for (word, at, bytes) in [
        ("uid", 108, &b"\xff\xff\xff\xff\xff\xff\xff\xff"[..]),
        ("size", 124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("mode", 100, b"zzzzzzz\0"),
    ] {
        let tar = Tar::new()
            .with(b"f", b'0', b"", b"", |header| header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes));
        cases.push(one(format!("an odd {word}"), tar, Refused("")));
    }
    let twice = Tar::new().file("f", "1").folder("f").link("f", "/etc").file("f", "2").hard("f", "f").file("f/..", "x");
    cases.push(one("one name many times, then out", twice, Refused("is refused")));
    let swap = Tar::new().folder("d").file("d/x", "1").link("d", "/tmp").file("d/x", "2");
    cases.push(one("a folder that becomes a link", swap, Refused("is refused")));
    let deep = Tar::new().folder("a/b/c").link("a/b", "/tmp").file("a/b/c/evil", "x");
    cases.push(one("a deep folder that becomes a link", deep, Refused("is refused")));
    for name in ["dev", "proc", "sys", "etc"] {
        // Unpacked as it is: the runtime refuses to start from it (tests/runtime/hostile.rs).
        cases.push(one(format!("/{name} is a link"), Tar::new().link(name, "/tmp"), Harmless));
        let tar = Tar::new().link(name, "/tmp").file(&format!("{name}/passwd"), "x");
        cases.push(one(format!("a file below /{name}, which is a link"), tar, Refused("is refused")));
    }
    cases
}

/// Judges all cases of a kind; `least` of them must be there.
fn judge_all(least: usize, make: impl Fn(&str) -> Vec<Case>) {
    let bench = Bench::new();
    let canary = bench.canary();
    let cases = make(canary.to_str().unwrap());
    assert!(cases.len() >= least, "{} cases", cases.len());
    settle(cases.into_iter().map(|(name, layers, verdict)| {
        let layers: Vec<(Vec<u8>, String)> = layers.into_iter().map(|tar| (tar.clone(), digest(&tar))).collect();
        bench.judge(&name, &oci(&layers, ""), verdict)
    }));
}

#[test]
fn paths_do_not_lead_out() {
    judge_all(60, paths);
}

#[test]
fn links_do_not_lead_out() {
    judge_all(60, links);
}

#[test]
fn nodes_modes_and_attributes_do_no_harm() {
    judge_all(40, |_| nodes());
}

#[test]
fn whiteouts_hide_only_what_is_below() {
    judge_all(15, |_| whiteouts());
}

#[test]
fn headers_are_read_in_one_way_or_not_at_all() {
    judge_all(50, |_| headers());
}

/// A link in one layer, and a file through it in the next: each is unpacked by itself.
#[test]
fn layers_do_not_help_each_other_out() {
    let bench = Bench::new();
    let canary = bench.canary();
    let lower = Tar::new().link("esc", canary.parent().unwrap().to_str().unwrap()).end();
    let upper = Tar::new().file("esc/canary", "dead").end();
    let layers = [(gzip(&lower), digest(&lower)), (zstd(&upper), digest(&upper))];
    settle([
        bench.judge("through a link of the layer below", &oci(&layers, ""), Harmless),
        bench.judge("a user through a link", &oci(&layers, "root:wheel"), Refused("wheel")),
    ]);
}

#[test]
fn bombs_and_floods_end_within_their_budgets() {
    let bench = Bench::new();
    let mut wrong = Vec::new();
    // 64 GiB of zeros by size, of which only the first bytes follow.
    let bomb = |size: u64| Tar::new().with(b"bomb", b'0', b"", b"", |header| header.set_size(size)).0;
    let packed = |tar: &[u8], pack: fn(&[u8]) -> Vec<u8>| (pack(tar), digest(tar));
    for (word, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("plain", <[u8]>::to_vec)] {
        let cut = bomb(64 << 30);
        wrong.push(bench.judge(
            &format!("{word}: a file that is cut off"),
            &oci(&[packed(&cut, pack)], ""),
            Refused("damaged"),
        ));
        let tar = Tar::new().file("f", "x").end();
        let (mut blob, _) = packed(&tar, pack);
        bench.judge(
            &format!("{word}: another tar than promised"),
            &oci(&[(blob.clone(), digest(b"other"))], ""),
            Refused("digest"),
        );
        blob.truncate(blob.len() * 2 / 3);
        wrong.push(bench.judge(&format!("{word}: cut off"), &oci(&[(blob, digest(&tar))], ""), Refused("")));
    }
    let mut zeros = Tar::new().0;
    zeros.resize(8 << 20, 0);
    let nested = gzip(&gzip(&zeros));
    wrong.push(bench.judge("gzip in gzip", &oci(&[(nested, digest(&zeros))], ""), Refused("")));
    // A window of terabytes, which must not be taken.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff][..], &[0; 64]].concat();
    wrong.push(bench.judge("a zstd window", &oci(&[(window, digest(b""))], ""), Refused("zstd")));
    let skip = [&[0x50, 0x2a, 0x4d, 0x18][..], &u32::MAX.to_le_bytes(), &[0; 64]].concat();
    wrong.push(bench.judge("an endless skippable frame", &oci(&[(skip, digest(b""))], ""), Refused("")));
    settle(wrong);
}

//! Which release a program is. Every program of Kith carries a stamp that can be read without
//! running it, so that a file is judged before anything in it is executed.
#![expect(clippy::disallowed_methods, reason = "programs are files")]

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use semver::Version;

use super::{UpgradeError, io};

/// The oldest release from which this one takes over, and to which this one can be taken back: it
/// reads what that one wrote, and writes what that one reads.
const OLDEST: &str = "0.1.0";

/// Bytes of a stamp.
const STAMP_BYTES: usize = 128;
/// Bytes of a program that are read at once.
const PIECE: usize = 64 << 10;
/// The largest file that is taken for a program.
pub const PROGRAM_BYTES: u64 = 256 << 20;

/// Begins with words that stand together nowhere else in the program.
#[used]
static STAMP: [u8; STAMP_BYTES] =
    stamp(&["KITH-RELEASE-STAMP:", "version=", env!("CARGO_PKG_VERSION"), ";oldest=", OLDEST, ";arch=", ARCH, ";"]);

const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else if cfg!(target_arch = "arm") {
    "arm"
} else {
    "other"
};

const fn stamp(parts: &[&str]) -> [u8; STAMP_BYTES] {
    let mut bytes = [b' '; STAMP_BYTES];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let text = parts[part].as_bytes();
        let mut letter = 0;
        while letter < text.len() {
            bytes[at] = text[letter];
            at += 1;
            letter += 1;
        }
        part += 1;
    }
    bytes
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version.
    pub version: Version,
    /// The oldest release from which it takes over.
    pub oldest: Version,
    /// The processor that it is for, as Rust names it.
    pub arch: String,
}

/// This program's release.
pub fn own() -> &'static Release {
    static OWN: OnceLock<Release> = OnceLock::new();
    OWN.get_or_init(|| {
        // Read from the program as it is, not as the compiler knows it.
        let stamp = std::hint::black_box(&STAMP);
        let fallback = || Release { version: Version::new(0, 0, 0), oldest: Version::new(0, 0, 0), arch: ARCH.into() };
        parse(&String::from_utf8_lossy(stamp)).unwrap_or_else(fallback)
    })
}

/// This program's version, as text.
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| own().version.to_string())
}

fn needle() -> Vec<u8> {
    // Turned round here, so that it stands in a program once.
    b":PMATS-ESAELER-HTIK".iter().rev().copied().collect()
}

fn parse(stamp: &str) -> Option<Release> {
    let fields = stamp.split_once(':')?.1;
    let field = |name: &str| {
        let found = fields.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned)
    };
    let version = |name: &str| Version::parse(&field(name)?).ok();
    Some(Release { version: version("version")?, oldest: version("oldest")?, arch: field("arch")? })
}

/// Which release a file is, if it is a program of Kith for this device. Nothing of it is executed.
pub fn of_file(path: &Path) -> Result<Release, UpgradeError> {
    read(path, same_machine)
}

/// The same for any processor.
pub fn of_any(path: &Path) -> Result<Release, UpgradeError> {
    read(path, |head| machine(head).map(drop))
}

fn read(path: &Path, fits: impl Fn(&[u8]) -> Result<(), String>) -> Result<Release, UpgradeError> {
    let name = path.display().to_string();
    let step = || io(format!("read {name}"));
    let file = File::open(path).map_err(step())?;
    let bytes = file.metadata().map_err(step())?.len();
    if bytes > PROGRAM_BYTES {
        return Err(UpgradeError::Unfit { file: name, reason: "it is too large for a program".into() });
    }
    scan(file, &name, fits)
}

/// Looks for the one stamp of a program; `fits` judges its head.
pub(super) fn scan(
    mut file: impl Read,
    name: &str,
    fits: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Release, UpgradeError> {
    let unfit = |reason: String| UpgradeError::Unfit { file: name.to_owned(), reason };
    let step = || io(format!("read {name}"));
    let needle = needle();
    let mut window: Vec<u8> = Vec::with_capacity(PIECE * 2);
    let mut piece = vec![0; PIECE];
    let mut found: Option<Release> = None;
    let mut first = true;
    loop {
        let read = file.read(&mut piece).map_err(step())?;
        if first {
            fits(&piece[..read]).map_err(unfit)?;
        }
        first = false;
        window.extend_from_slice(&piece[..read]);
        let over = read == 0;
        while let Some(at) = find(&window, &needle) {
            if window.len() < at + STAMP_BYTES && !over {
                break;
            }
            let end = (at + STAMP_BYTES).min(window.len());
            if let Some(release) = parse(&String::from_utf8_lossy(&window[at..end])) {
                if found.is_some() {
                    return Err(unfit("it carries more than one stamp of a release".into()));
                }
                found = Some(release);
            }
            window.drain(..at + needle.len());
        }
        if over {
            break;
        }
        // A stamp may begin in this piece and end in the next.
        let kept = window.len().saturating_sub(STAMP_BYTES);
        window.drain(..kept);
    }
    found.ok_or_else(|| unfit("it is no program of Kith, or one from before releases carried a stamp".into()))
}

/// Where a word begins, looked for from its end: most of a program is stepped over, which counts when
/// tens of megabytes are read several times.
fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    let last = word.len().checked_sub(1)?;
    let mut step = [word.len(); 256];
    for (at, byte) in word[..last].iter().enumerate() {
        step[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    while let Some(part) = bytes.get(at..at + word.len()) {
        if part == word {
            return Some(at);
        }
        at += step[usize::from(part[last])];
    }
    None
}

/// For which processor the head of a program is, by the number that ELF has for it and with its width.
pub(super) fn machine(head: &[u8]) -> Result<(u8, u8, u16), String> {
    match head {
        [0x7f, b'E', b'L', b'F', width, order, rest @ ..] if rest.len() >= 14 => {
            let number = [rest[12], rest[13]];
            let number = if *order == 2 { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
            Ok((*width, *order, number))
        }
        _ => Err("it is no program".into()),
    }
}

/// Whether the head of a file is that of a program for this machine.
fn same_machine(head: &[u8]) -> Result<(), String> {
    let found = machine(head)?;
    let mut own = [0; 20];
    let known = File::open("/proc/self/exe").and_then(|mut file| file.read_exact(&mut own));
    if known.is_ok() && machine(&own) == Ok(found) {
        return Ok(());
    }
    let theirs = match found.2 {
        62 => "x86_64",
        183 => "aarch64",
        40 => "arm",
        _ => "another processor",
    };
    Err(format!("it is for {theirs}, and this device is {ARCH}"))
}

/// Whether a release may follow the one that runs.
pub fn follows(running: &Release, wanted: &Release, downgrade: bool) -> Result<(), UpgradeError> {
    let refuse = |reason: String| {
        let (running, wanted) = (running.version.to_string(), wanted.version.to_string());
        Err(UpgradeError::Order { running, wanted, reason })
    };
    if wanted.arch != running.arch {
        return refuse(format!("it is for {}, and this device is {}", wanted.arch, running.arch));
    }
    if running.version < wanted.oldest {
        let oldest = &wanted.oldest;
        return refuse(format!("it takes over from {oldest} at the earliest: upgrade to {oldest} first"));
    }
    if wanted.version >= running.version {
        return Ok(());
    }
    if wanted.version < running.oldest {
        return refuse(format!("it can not read what {} has written; {} can", running.version, running.oldest));
    }
    if downgrade { Ok(()) } else { refuse("it is older; --allow-downgrade goes back all the same".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, oldest: &str) -> Release {
        let parse = |text| Version::parse(text).unwrap();
        Release { version: parse(version), oldest: parse(oldest), arch: "x86_64".into() }
    }

    #[test]
    fn a_program_says_what_it_is() {
        let own = own();
        assert_eq!(own.version.to_string(), env!("CARGO_PKG_VERSION"));
        assert_eq!(own.arch, std::env::consts::ARCH);
        assert_eq!(of_file(Path::new("/proc/self/exe")).unwrap(), *own, "without being run");
    }

    #[test]
    fn what_is_no_program_of_kith_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let bare = [needle(), b"version=9.9.9;oldest=0.1.0;arch=x86_64;".to_vec()].concat();
        for bytes in [&b""[..], b"#!/bin/sh\n", &bare] {
            std::fs::write(&path, bytes).unwrap();
            assert!(of_file(&path).unwrap_err().to_string().ends_with("it is no program"));
        }
        let mut foreign = std::fs::read("/proc/self/exe").unwrap();
        let other = if ARCH == "x86_64" { 40 } else { 62 };
        foreign[18..20].copy_from_slice(&[other, 0]);
        std::fs::write(&path, &foreign).unwrap();
        let said = of_file(&path).unwrap_err().to_string();
        assert!(said.contains("it is for ") && said.ends_with(&format!("and this device is {ARCH}")), "{said}");
        assert!(of_any(&path).is_ok(), "others may take it");
        assert!(of_file(Path::new("/bin/true")).unwrap_err().to_string().contains("no program of Kith"));
        let mut twice = std::fs::read("/proc/self/exe").unwrap();
        twice.extend_from_slice(&STAMP);
        std::fs::write(&path, twice).unwrap();
        assert!(of_file(&path).unwrap_err().to_string().contains("more than one stamp"));
    }

    #[test]
    fn words_are_found_wherever_they_begin() {
        for text in ["", "abc", "ab", "xxabcabc", "aabaabcx", "abxabxabc", "ababab"] {
            for word in ["abc", "b", "aab", "ababab"] {
                assert_eq!(find(text.as_bytes(), word.as_bytes()), text.find(word), "{word} in {text}");
            }
        }
        assert_eq!(find(b"abc", b""), None);
    }

    #[test]
    fn the_order_of_releases() {
        let running = release("0.3.1", "0.2.0");
        for (wanted, oldest, downgrade, part) in [
            ("0.3.1", "0.2.0", false, ""),
            ("0.3.2", "0.2.0", false, ""),
            ("0.4.0", "0.3.0", false, ""),
            ("0.5.0", "0.4.0", true, "upgrade to 0.4.0 first"),
            ("0.3.0", "0.2.0", false, "--allow-downgrade"),
            ("0.3.0", "0.2.0", true, ""),
            ("0.2.0", "0.1.0", true, ""),
            ("0.1.9", "0.1.0", true, "can not read what 0.3.1 has written"),
            ("0.4.0-rc.1", "0.3.0", false, ""),
        ] {
            let judged = follows(&running, &release(wanted, oldest), downgrade);
            let text = judged.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(text.is_empty(), part.is_empty(), "{wanted}: {text}");
            assert!(text.contains(part), "{wanted}: {text}");
        }
        let other = Release { arch: "arm".into(), ..release("0.4.0", "0.3.0") };
        assert!(follows(&running, &other, false).is_err());
    }
}

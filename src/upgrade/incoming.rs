//! Taking a program in: it is copied, judged as a copy that nobody else can change, tried, and put in
//! its place whole.
#![expect(clippy::disallowed_methods, reason = "programs are files")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::record::{Record, Slot, Trial, folder};
use super::release::{self, PROGRAM_BYTES, Release};
use super::signature::{self, SIGNATURE_BYTES};
use super::{UpgradeError, io, sync};

/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;
/// How long a new program may take to say what it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Who has to have signed a program.
#[derive(Clone, Copy, Debug)]
pub enum Signed<'a> {
    /// One of these keys.
    By(&'a [String]),
    /// Nobody: root on this very device vouches for it.
    Nobody,
}

/// What `kith version --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The release.
    pub version: String,
    /// The oldest release from which it takes over.
    pub oldest: String,
    /// The processor that it is for.
    pub arch: String,
}

impl Said {
    /// What this program says of itself.
    pub fn own() -> Self {
        Self::of(release::own())
    }

    fn of(release: &Release) -> Self {
        let (version, oldest) = (release.version.to_string(), release.oldest.to_string());
        Self { version, oldest, arch: release.arch.clone() }
    }
}

/// Where a file waits to be judged.
pub fn place(dir: &Path, digest: &str) -> PathBuf {
    dir.join("incoming").join(digest)
}

/// Where its signature waits.
pub fn signature_place(dir: &Path, digest: &str) -> PathBuf {
    dir.join("incoming").join(format!("{digest}.minisig"))
}

/// Where a program with this digest can be read, if it is here.
pub fn find(dir: &Path, digest: &str) -> Option<PathBuf> {
    let fine = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let places = [folder(dir, digest).join("kith"), place(dir, digest)];
    places.into_iter().find(|path| fine && path.is_file())
}

/// Makes the folders, closed to other users.
pub fn make(dir: &Path) -> Result<(), UpgradeError> {
    for folder in [dir.to_owned(), dir.join("incoming"), dir.join("slots")] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(io(format!("make {}", folder.display())))?;
    }
    Ok(())
}

/// SHA-256 of a file, hexadecimal.
pub fn digest(path: &Path) -> Result<String, UpgradeError> {
    let step = || io(format!("read {}", path.display()));
    let mut file = File::open(path).map_err(step())?;
    let (mut hasher, mut piece) = (Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(step())? {
            0 => return Ok(hex::encode(hasher.finish())),
            read => hasher.update(&piece[..read]),
        }
    }
}

/// Copies a file, and its signature, to where they wait to be judged. Returns its digest.
pub fn copy_in(dir: &Path, file: &Path, signature: Option<&str>) -> Result<String, UpgradeError> {
    make(dir)?;
    let step = || io(format!("copy {} to {}", file.display(), dir.display()));
    let mut from = File::open(file).map_err(io(format!("read {}", file.display())))?;
    let mut to = tempfile::NamedTempFile::new_in(dir.join("incoming")).map_err(step())?;
    let (mut hasher, mut piece, mut bytes) = (Context::new(&SHA256), vec![0; PIECE], 0);
    loop {
        let read = from.read(&mut piece).map_err(step())?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > PROGRAM_BYTES {
            let reason = "it is too large for a program".into();
            return Err(UpgradeError::Unfit { file: file.display().to_string(), reason });
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read]).map_err(step())?;
    }
    to.as_file().sync_all().map_err(step())?;
    let digest = hex::encode(hasher.finish());
    if let Some(signature) = signature {
        std::fs::write(signature_place(dir, &digest), signature).map_err(step())?;
    }
    to.persist(place(dir, &digest)).map_err(|error| step()(error.error))?;
    sync(&dir.join("incoming"))?;
    Ok(digest)
}

/// The signature beside a file.
pub fn signature_of(file: &Path) -> Result<Option<String>, UpgradeError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    let path = PathBuf::from(name);
    match File::open(&path) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io(format!("read {}", path.display()))(source)),
        Ok(open) => {
            let mut text = String::new();
            let read = open.take(SIGNATURE_BYTES).read_to_string(&mut text);
            read.map_err(io(format!("read {}", path.display())))?;
            Ok(Some(text))
        }
    }
}

/// Judges a file that waits: its digest, its signature, what it is, and whether it may follow.
pub fn judge(dir: &Path, wanted: &str, signed: Signed<'_>, downgrade: bool) -> Result<Release, UpgradeError> {
    let file = find(dir, wanted).unwrap_or_else(|| place(dir, wanted));
    let found = digest(&file)?;
    if found != wanted {
        let reason = format!("its digest is {found}, not {wanted}: it changed on its way");
        return Err(UpgradeError::Unfit { file: file.display().to_string(), reason });
    }
    if let Signed::By(keys) = signed {
        let beside = [signature_place(dir, wanted), folder(dir, wanted).join("kith.minisig")];
        let text = beside.iter().find_map(|path| std::fs::read_to_string(path).ok());
        let text = match text {
            Some(text) => text,
            // Whoever has no key yet is told of that first.
            None if keys.is_empty() => String::new(),
            None => {
                let reason = "there is no signature beside it: FILE.minisig, as minisign -S -m FILE makes it".into();
                return Err(UpgradeError::Unsigned { file: file.display().to_string(), reason });
            }
        };
        let comment = signature::check(&file, &text, keys)?;
        tracing::debug!(comment, "a program is signed by a key that is trusted here");
    }
    let release = release::of_file(&file)?;
    release::follows(release::own(), &release, downgrade)?;
    Ok(release)
}

/// Puts a program that was judged in its place, and has it say what it is. Nothing else of it runs.
pub async fn take_in(dir: &Path, digest: &str, release: &Release) -> Result<Slot, UpgradeError> {
    let slot =
        Slot { digest: digest.into(), version: release.version.to_string(), base: super::launch::installed_version() };
    let program = slot.program(dir);
    if !program.is_file() {
        settle(dir, digest)?;
    }
    let said = ask(&program).await?;
    if said != Said::of(release) {
        let reason = format!("it says that it is {}, but its stamp says {}", said.version, release.version);
        return Err(UpgradeError::Unfit { file: program.display().to_string(), reason });
    }
    Ok(slot)
}

fn settle(dir: &Path, digest: &str) -> Result<(), UpgradeError> {
    let (fresh, there) = (dir.join("slots").join(format!("{digest}.new")), folder(dir, digest));
    let step = || io(format!("put the program into {}", there.display()));
    let _left_by_an_earlier_try = std::fs::remove_dir_all(&fresh);
    std::fs::DirBuilder::new().mode(0o755).create(&fresh).map_err(step())?;
    let program = fresh.join("kith");
    // A copy: what waits may be wanted by other devices still.
    std::fs::copy(place(dir, digest), &program).map_err(step())?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).map_err(step())?;
    File::open(&program).and_then(|open| open.sync_all()).map_err(step())?;
    let signature = signature_place(dir, digest);
    if signature.is_file() {
        std::fs::copy(signature, fresh.join("kith.minisig")).map_err(step())?;
    }
    if super::incoming::digest(&program)? != digest {
        let reason = "its copy is not what was judged: is the disk sound?".into();
        return Err(UpgradeError::Unfit { file: program.display().to_string(), reason });
    }
    sync(&fresh)?;
    std::fs::rename(&fresh, &there).map_err(step())?;
    sync(&dir.join("slots"))
}

/// Has a program say what it is.
async fn ask(program: &Path) -> Result<Said, UpgradeError> {
    let unfit = |reason: String| UpgradeError::Unfit { file: program.display().to_string(), reason };
    let mut command = tokio::process::Command::new(program);
    command.args(["version", "--json"]).env_clear().current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ANSWER_WITHIN, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(unfit(
                "it may not be executed there: is the file system mounted noexec? upgrade.dir in agent.toml names \
                 another folder"
                    .into(),
            ));
        }
        Ok(Err(error)) => return Err(unfit(format!("it does not start on this device: {error}"))),
        Err(_) => return Err(unfit(format!("it did not say what it is within {ANSWER_WITHIN:?}"))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        return Err(unfit(format!("it ends with {} when it is asked what it is: {said}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| unfit(format!("it does not say what it is: {error}")))
}

/// Writes down that a program is on trial from the next start on.
pub fn begin(dir: &Path, slot: Slot, trial: Trial) -> Result<(), UpgradeError> {
    let mut record = Record::load(dir)?;
    let (running, wanted) = (release::version().to_owned(), slot.version.clone());
    if record.trial.is_some() {
        let reason = "another program is on trial at this moment".into();
        return Err(UpgradeError::Order { running, wanted, reason });
    }
    record.trial = Some(Trial {
        version: slot.version.clone(),
        to: Some(slot),
        from: record.current.clone(),
        from_version: running,
        attempts: 0,
        ..trial
    });
    record.store(dir)
}

/// Removes programs that are of no use any more; `kept` are those that others may want.
pub fn sweep(dir: &Path, record: &Record, kept: &[String]) {
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    let used = record.used().into_iter().chain(kept.iter().copied()).collect();
    // What was taken in need not wait any more.
    for (folder, used) in [("slots", &used), ("incoming", &kept)] {
        for entry in std::fs::read_dir(dir.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (digest, ending) = name.split_once('.').unwrap_or((&name, ""));
            if used.contains(&digest) && ending != "new" {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "an old program stays on the disk");
            }
        }
    }
}

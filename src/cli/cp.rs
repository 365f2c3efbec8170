//! `kith cp`: files into a container and out of it, through the `tar` that is in its image.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use tokio::sync::mpsc;

use super::client::Client;
use super::exec::How;
use super::failure::{Doing, Failure};
use super::output::note;
use super::pod;
use super::pod::streams::{self, Sink, Source};
use super::target::Namespace;

/// Pieces of an archive on their way.
const QUEUE: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// From: a path here, or POD:PATH, or NAMESPACE/POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// To: the same
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

impl Side {
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            // A path with a colon in it is named from its folder on: ./a:b
            Some((pod, path)) if !pod.is_empty() && !pod.starts_with(['/', '.']) => {
                let (namespace, pod) = match pod.split_once('/') {
                    Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
                    None => (None, pod),
                };
                Self::There { namespace, pod: pod.to_owned(), path: path.to_owned() }
            }
            _ => Self::Here(text.into()),
        }
    }
}

pub(crate) async fn run(args: &CpArgs, client: &Client) -> Result<(), Failure> {
    match (Side::parse(&args.from), Side::parse(&args.to)) {
        (Side::Here(from), Side::There { namespace, pod, path }) => {
            let there = There::find(args, namespace, &pod, client).await?;
            there.put(&from, &path, client).await.map_err(explain)
        }
        (Side::There { namespace, pod, path }, Side::Here(to)) => {
            let there = There::find(args, namespace, &pod, client).await?;
            there.take(&path, &to, client).await.map_err(explain)
        }
        _ => Err(Failure::usage("one side is a path here, the other one POD:PATH")),
    }
}

fn explain(failure: Failure) -> Failure {
    if failure.chain.iter().any(|cause| cause.contains("start tar: no such program")) {
        return failure.hint(
            "files are copied by the tar of the container's image, and this image has none; one file is read by \
             kith exec POD -- cat PATH, where the image has cat",
        );
    }
    failure
}

/// The container.
struct There {
    pod: serde_json::Value,
    container: String,
}

impl There {
    async fn find(args: &CpArgs, namespace: Option<String>, pod: &str, client: &Client) -> Result<Self, Failure> {
        let namespace = namespace.as_deref().unwrap_or(args.namespace.name());
        let pod = pod::find(pod, namespace, client).await?;
        let container = pod::container(&pod, args.container.as_deref());
        Ok(Self { pod, container })
    }

    fn how(&self, stdin: bool) -> How {
        How { container: self.container.clone(), tty: false, stdin }
    }

    /// Whether a path is a folder in the container.
    async fn is_folder(&self, path: &str, client: &Client) -> bool {
        let words = ["test", "-d", path].map(str::to_owned);
        let Ok(socket) = client.upgrade(&self.how(false).path(&self.pod, &words)).await else { return false };
        streams::run(socket, Source::Nothing, Sink::Stdout, false).await.is_ok()
    }

    async fn put(&self, from: &Path, to: &str, client: &Client) -> Result<(), Failure> {
        let metadata = fs::metadata(from).doing(|| format!("look at {}", from.display()))?;
        let own = from.canonicalize().doing(|| format!("look at {}", from.display()))?;
        let own = own.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let trimmed = to.trim_end_matches('/');
        let (folder, name) = if to.is_empty() || to.ends_with('/') || self.is_folder(to, client).await {
            (if trimmed.is_empty() && to.starts_with('/') { "/" } else { trimmed }, own)
        } else {
            match trimmed.rsplit_once('/') {
                Some(("", name)) => ("/", name.to_owned()),
                Some((folder, name)) => (folder, name.to_owned()),
                None => ("", trimmed.to_owned()),
            }
        };
        let folder = if folder.is_empty() { "." } else { folder };
        let words = ["tar", "-xmf", "-", "-C", folder].map(str::to_owned);
        let socket = client.upgrade(&self.how(true).path(&self.pod, &words)).await?;
        let (to, pieces) = mpsc::channel(QUEUE);
        let from = from.to_owned();
        let packed = std::thread::spawn(move || pack(&from, &name, metadata.is_dir(), to));
        let sent = streams::run(socket, Source::Pieces(pieces), Sink::Stdout, false).await;
        let packed = packed.join().unwrap_or_else(|_| Err(io::Error::other("the packer stopped")));
        // A container that stopped taking says more than the archive that was cut short by it.
        sent?;
        packed.doing(|| "pack the files".into())
    }

    async fn take(&self, path: &str, to: &Path, client: &Client) -> Result<(), Failure> {
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = match trimmed.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some((folder, name)) => (folder, name),
            None => (".", trimmed),
        };
        if name.is_empty() || name == ".." {
            return Err(Failure::usage(format!("{path:?} names no file and no folder below another")));
        }
        // A folder that is there already takes it in under its own name.
        let to = if to.is_dir() && name != "." { to.join(name) } else { to.to_owned() };
        let words = ["tar", "-cf", "-", "-C", folder, name].map(str::to_owned);
        let socket = client.upgrade(&self.how(false).path(&self.pod, &words)).await?;
        let (pieces, taken) = mpsc::channel(QUEUE);
        let name = name.to_owned();
        let unpacked = std::thread::spawn(move || unpack(Pieces { from: taken, rest: Bytes::new() }, &name, &to));
        let sent = streams::run(socket, Source::Nothing, Sink::Pieces(pieces), false).await;
        let unpacked = unpacked.join().unwrap_or_else(|_| Err(io::Error::other("the unpacker stopped")));
        match (sent, unpacked) {
            // Said of the container's side only if this side had no part in it.
            (Err(failure), Ok(())) => Err(failure),
            (_, unpacked) => unpacked.doing(|| "unpack the files".into()),
        }
    }
}

/// Bytes that are written, on their way to the container.
struct Packed(mpsc::Sender<Bytes>);

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(from: &Path, name: &str, folder: bool, to: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(32 << 10, Packed(to)));
    archive.follow_symlinks(false);
    if folder {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from.canonicalize()?, name)?;
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

/// What the container's tar wrote.
struct Pieces {
    from: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(into.len());
        into[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Puts an archive's `name` in the place of `to`. The container may have written anything: nothing
/// is written elsewhere, and of links only those that stay inside are made.
fn unpack(pieces: Pieces, name: &str, to: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(pieces);
    let mut found = false;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(inside) = below(&path, name) else {
            note!("{} is left out: it leads elsewhere", path.display());
            continue;
        };
        found = true;
        let place = if inside.as_os_str().is_empty() { to.to_owned() } else { to.join(&inside) };
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            let target = entry.link_name()?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            if kind.is_symlink() && stays_inside(&inside, &target) {
                make_room(to, &place)?;
                std::os::unix::fs::symlink(&target, &place)?;
            } else {
                note!("{} is left out: it is a device, a pipe, or a link that leads elsewhere", path.display());
            }
            continue;
        }
        make_room(to, &place)?;
        if kind.is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            let mut file = fs::File::create(&place)?;
            io::copy(&mut entry, &mut file)?;
            // Not the bits that lend rights: what comes from a container earns none here.
            file.set_permissions(fs::Permissions::from_mode(entry.header().mode()? & 0o777))?;
        }
    }
    if found { Ok(()) } else { Err(io::Error::other("the container sent no files")) }
}

/// The rest of a path below `name`; `None` when it is not there.
fn below(path: &Path, name: &str) -> Option<PathBuf> {
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let name: PathBuf = Path::new(name).components().filter(|part| *part != Component::CurDir).collect();
    let inside = plain.strip_prefix(name).ok()?.to_owned();
    inside.components().all(|part| matches!(part, Component::Normal(_))).then_some(inside)
}

fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    !target.as_os_str().is_empty()
        && target.components().all(|part| match part {
            Component::Normal(_) => {
                depth += 1;
                true
            }
            Component::CurDir => true,
            Component::ParentDir => {
                let above = depth.checked_sub(1);
                depth = above.unwrap_or(0);
                above.is_some()
            }
            _ => false,
        })
}

/// Makes the folders above a place and clears it; through no link below `root`.
fn make_room(root: &Path, place: &Path) -> io::Result<()> {
    if let Some(parent) = place.parent()
        && place != root
    {
        fs::create_dir_all(parent)?;
        let mut above = root.to_owned();
        let inside = parent.strip_prefix(root).map_err(io::Error::other)?;
        for part in inside.components() {
            above.push(part);
            if fs::symlink_metadata(&above)?.is_symlink() {
                return Err(io::Error::other(format!("{} is a link", above.display())));
            }
        }
    }
    match fs::symlink_metadata(place) {
        // A folder stays, also one that this user made a link to; below it nothing is followed.
        Ok(found) if found.is_dir() || (place == root && place.is_dir()) => Ok(()),
        Ok(_) => fs::remove_file(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| Side::There {
            namespace: namespace.map(str::to_owned),
            pod: pod.into(),
            path: path.into(),
        };
        assert_eq!(Side::parse("web:/etc/hosts"), there(None, "web", "/etc/hosts"));
        assert_eq!(Side::parse("shop/web:data"), there(Some("shop"), "web", "data"));
        for here in ["/a:b", "./a:b", "file", "../x:y"] {
            assert_eq!(Side::parse(here), Side::Here(here.into()));
        }
    }

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_size(if kind.is_file() { content.len() as u64 } else { 0 });
            if !(kind.is_file() || kind.is_dir()) {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_cksum();
            archive.append(&header, if kind.is_file() { content.as_bytes() } else { b"" }).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn unpacked(bytes: Vec<u8>, to: &Path) -> io::Result<()> {
        let (send, from) = mpsc::channel(1);
        send.blocking_send(Bytes::from(bytes)).unwrap();
        drop(send);
        unpack(Pieces { from, rest: Bytes::new() }, "data", to)
    }

    #[test]
    fn a_hostile_archive_writes_nothing_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (to, canary) = (folder.path().join("to"), folder.path().join("canary"));
        fs::write(&canary, "safe").unwrap();
        let bytes = archive(&[
            ("data/", EntryType::Directory, ""),
            ("data/a", EntryType::Regular, "one"),
            ("data/../../canary", EntryType::Regular, "evil"),
            ("../canary", EntryType::Regular, "evil"),
            ("/canary", EntryType::Regular, "evil"),
            ("data/up", EntryType::Symlink, "../canary"),
            ("data/hard", EntryType::Link, "../canary"),
            ("data/fine", EntryType::Symlink, "a"),
            ("data/pipe", EntryType::Fifo, ""),
        ]);
        unpacked(bytes, &to).unwrap();
        assert_eq!(fs::read_to_string(&canary).unwrap(), "safe");
        assert_eq!(fs::read_to_string(to.join("fine")).unwrap(), "one");
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "fine"]);
        assert_eq!(fs::metadata(to.join("a")).unwrap().permissions().mode() & 0o7777, 0o755);
        // A link that was there before is not followed either.
        std::os::unix::fs::symlink(folder.path(), to.join("out")).unwrap();
        assert!(unpacked(archive(&[("data/out/canary", EntryType::Regular, "evil")]), &to).is_err());
        assert_eq!(fs::read_to_string(&canary).unwrap(), "safe");
        assert!(unpacked(archive(&[]), &to).is_err());
    }
}

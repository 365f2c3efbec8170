//! `kith image`: the images of this device, straight on the folder where the agent keeps them. It
//! works without an agent, and beside one that runs.

mod keep;
mod network;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Session;
use super::describe::now;
use super::failure::{Code, Doing, Failure};
use super::output::{self, Format, Table, note, say, size, span};
use crate::config::Config;
use crate::images::{Format as Archive, Image, ImageError, ImageName, ImageStore};
use crate::resource::{ImageConfig, ImageUser};

/// Digits of a digest that are shown.
const SHORT_DIGEST: usize = 12;
const STANDARD_STREAM: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bring images from their registries
    Pull(network::PullArgs),
    /// Bring an image to a registry
    Push(network::PushArgs),
    /// Make an image of a root file system in a tar file
    Import(ImportArgs),
    /// Take in an OCI layout or a docker archive
    Load(LoadArgs),
    /// Write images to an archive that other tools take in
    Save(SaveArgs),
    /// List the images
    Ls(LsArgs),
    /// Show what an image is made of
    Inspect(keep::InspectArgs),
    /// Remove images
    Rm(RmArgs),
    /// Make room: remove what nothing needs
    Prune(keep::PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Tar file of the root, plain or gzip; - for standard input
    #[arg(value_name = "ROOTFS.tar")]
    rootfs: PathBuf,
    /// Name of the image: hello:1
    #[arg(value_name = "NAME:TAG")]
    name: String,
    /// Program and arguments that containers run by default, words split at spaces
    #[arg(long, value_name = "COMMAND")]
    cmd: Option<String>,
    /// Program that always comes first, words split at spaces
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Environment variable; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Folder that containers start in
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Numeric user that containers run as: UID or UID:GID
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<ImageUser>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// An archive, plain or gzip, or a folder in OCI layout; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Another name, where the archive holds one image
    #[arg(long, value_name = "NAME:TAG")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Names of the images
    #[arg(required = true, value_name = "NAME:TAG")]
    names: Vec<String>,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What kind of archive
    #[arg(long, value_enum, default_value = "oci")]
    format: ArchiveFormat,
}

/// `--format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArchiveFormat {
    /// A tar of an OCI layout
    Oci,
    /// What docker load reads
    Docker,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Names of the images
    #[arg(required = true, value_name = "NAME:TAG")]
    names: Vec<String>,
}

impl ImageCommand {
    /// `load FILE`.
    pub(crate) fn load(file: PathBuf) -> Self {
        Self::Load(LoadArgs { file, name: None })
    }
}

pub(crate) fn run(command: &ImageCommand, session: &Session) -> Result<(), Failure> {
    run_in(command, &session.config()?, "")
}

/// Runs a command on the images of several devices of this machine; each line begins with its device.
pub(crate) fn run_on_all(command: &ImageCommand, devices: &[(String, Config)]) -> Result<(), Failure> {
    for (name, config) in devices {
        run_in(command, config, &format!("{name}: ")).map_err(|failure| failure.during(format!("on {name}")))?;
    }
    Ok(())
}

fn run_in(command: &ImageCommand, config: &Config, label: &str) -> Result<(), Failure> {
    let store = ImageStore::open(&config.data_dir.join("images"))?;
    match command {
        ImageCommand::Pull(args) => network::pull(args, &store, config, label),
        ImageCommand::Push(args) => network::push(args, &store, config, label),
        ImageCommand::Import(args) => import(args, &store, label),
        ImageCommand::Load(args) => load(args, &store, label),
        ImageCommand::Save(args) => save(args, &store),
        ImageCommand::Ls(args) => {
            if !label.is_empty() {
                say!("{label}")?;
            }
            list(&store.list()?, args.output)
        }
        ImageCommand::Inspect(args) => keep::inspect(args, &store),
        ImageCommand::Prune(args) => keep::prune(args, &store, label),
        ImageCommand::Rm(args) => {
            for name in &args.names {
                store.remove(&ImageName::parse(name)?)?;
                say!("{label}image {name} removed")?;
            }
            Ok(())
        }
    }
}

fn import(args: &ImportArgs, store: &ImageStore, label: &str) -> Result<(), Failure> {
    let name = ImageName::parse(&args.name)?;
    if let Some(wrong) = args.env.iter().find(|pair| !pair.contains('=')) {
        return Err(Failure::usage(format!("--env takes NAME=VALUE, not {wrong:?}")));
    }
    let words = |text: &Option<String>| text.iter().flat_map(|t| t.split_whitespace().map(str::to_owned)).collect();
    let config = ImageConfig {
        entrypoint: words(&args.entrypoint),
        cmd: words(&args.cmd),
        env: args.env.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        ..ImageConfig::default()
    };
    let image = if args.rootfs == Path::new(STANDARD_STREAM) {
        store.import(std::io::stdin().lock(), &name, &config, now())?
    } else {
        let file = std::fs::File::open(&args.rootfs).doing(|| format!("open {}", args.rootfs.display()))?;
        store.import(file, &name, &config, now())?
    };
    if config.cmd.is_empty() && config.entrypoint.is_empty() {
        note!("The image names no program: pods must, with command (or import again with --cmd).");
    }
    say!("{label}image {} imported ({})", image.name, size(image.size))
}

fn load(args: &LoadArgs, store: &ImageStore, label: &str) -> Result<(), Failure> {
    let name = args.name.as_deref().map(ImageName::parse).transpose()?;
    let loaded = if args.file == Path::new(STANDARD_STREAM) {
        store.load_reader(std::io::stdin().lock(), "standard input", name.as_ref())?
    } else {
        store.load(&args.file, name.as_ref())?
    };
    loaded.iter().try_for_each(|image| say!("{label}image {} loaded ({})", image.name, size(image.size)))
}

fn save(args: &SaveArgs, store: &ImageStore) -> Result<(), Failure> {
    let names = args.names.iter().map(|name| ImageName::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let format = match args.format {
        ArchiveFormat::Oci => Archive::Oci,
        ArchiveFormat::Docker => Archive::Docker,
    };
    match args.output.as_deref().filter(|path| *path != Path::new(STANDARD_STREAM)) {
        Some(path) => {
            store.save(&names, path, format)?;
            note!("saved {} to {}", args.names.join(", "), path.display());
            Ok(())
        }
        None if std::io::stdout().is_terminal() => Err(Failure::usage("an archive does not belong on a terminal")
            .hint("name a file with -o FILE, or send the output into a pipe")),
        None => Ok(store.save_to(&names, &mut std::io::stdout().lock(), format)?),
    }
}

fn list(images: &[Image], format: Option<Format>) -> Result<(), Failure> {
    match format {
        Some(Format::Json) => output::json(&objects(images)),
        Some(Format::Yaml) => output::yaml(&objects(images)),
        Some(Format::Name) => images.iter().try_for_each(|image| say!("{}", image.name)),
        None | Some(Format::Wide) => {
            let wide = format.is_some();
            let mut table = Table::new(["NAME", "DIGEST", "SIZE", "CREATED"]);
            for image in images {
                let digest = image.digest.hex();
                let digest = if wide { digest } else { digest.get(..SHORT_DIGEST).unwrap_or(digest) };
                let age = span(now().since(image.created).as_secs());
                table.row([image.name.to_string(), digest.to_owned(), size(image.size), format!("{age} ago")]);
            }
            if images.is_empty() {
                note!("No images. kith image pull, load and import bring some.");
                return Ok(());
            }
            table.print()
        }
    }
}

fn objects(images: &[Image]) -> Value {
    json!({ "items": images.iter().map(object).collect::<Vec<_>>() })
}

fn object(image: &Image) -> Value {
    json!({
        "name": image.name.to_string(),
        "digest": image.digest.to_string(),
        "size": image.size,
        "created": image.created.to_string(),
        "architecture": image.architecture,
        "config": image.config,
    })
}

fn parse_user(text: &str) -> Result<ImageUser, String> {
    let number = |part: &str| part.parse().map_err(|_| format!("{part:?} is no numeric id"));
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    Ok(ImageUser { uid: number(uid)?, gid: number(gid)? })
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let failure = Self::of(Code::Failed, &error);
        match &error {
            ImageError::Name { .. } => Self { code: Code::Usage, ..failure },
            ImageError::Unknown(_) => failure.hint("kith image ls shows what is here"),
            ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                failure.hint("the images belong to root: sudo kith image ...")
            }
            ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
                Self::said(Code::Failed)
            }
            ImageError::Registry(error) if error.is_unreachable() => Self { code: Code::Unreachable, ..failure },
            ImageError::Unsupported { .. }
            | ImageError::Io { .. }
            | ImageError::NoRoom { .. }
            | ImageError::NoRegistry { .. }
            | ImageError::Registry(_) => failure,
            ImageError::Damaged { .. } => {
                failure.hint("copy the file again, and compare its checksum with the original's")
            }
            ImageError::Refused { .. } => {
                failure.hint("the archive is not one to trust: make it again from a source you know")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_imported_saved_and_loaded_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let config = |name: &str| Config { data_dir: dir.path().join(name), ..Config::default() };
        let root = dir.path().join("root.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&root).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o755);
        tar.append_data(&mut header, "bin/hello", &b"hi"[..]).unwrap();
        tar.finish().unwrap();
        let archive = dir.path().join("image.tar");
        let import = ImageCommand::Import(ImportArgs {
            rootfs: root,
            name: "hello:1".into(),
            cmd: Some("/bin/hello --loud".into()),
            entrypoint: None,
            env: vec!["A=b".into()],
            workdir: None,
            user: Some(parse_user("1000:7").unwrap()),
        });
        run_in(&import, &config("one"), "").unwrap();
        let save =
            SaveArgs { names: vec!["hello:1".into()], output: Some(archive.clone()), format: ArchiveFormat::Oci };
        run_in(&ImageCommand::Save(save), &config("one"), "").unwrap();
        run_on_all(&ImageCommand::load(archive), &[("d1".into(), config("two")), ("d2".into(), config("three"))])
            .unwrap();
        let images = ImageStore::open(&config("three").data_dir.join("images")).unwrap().list().unwrap();
        assert_eq!(images[0].name.to_string(), "hello:1");
        assert_eq!(images[0].config.cmd, ["/bin/hello", "--loud"]);
        assert_eq!(images[0].config.user, ImageUser { uid: 1000, gid: 7 });
        let absent = RmArgs { names: vec!["nobody:9".into()] };
        let failure = run_in(&ImageCommand::Rm(absent), &config("one"), "").unwrap_err();
        assert!(failure.text().contains("kith image ls"), "{}", failure.text());
    }
}

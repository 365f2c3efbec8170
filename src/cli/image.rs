//! `kith image`: the images of this device, straight on the folder where the agent keeps them.
//! The agent sees what changes here by itself.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};

use super::Session;
use super::failure::{Code, Doing, Failure};
use super::output::{note, say};
use crate::config::Config;
use crate::images::{Format, Image, ImageError, ImageName, ImageStore};
use crate::resource::{ImageConfig, Timestamp};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images
    Ls,
    /// Make an image of one layer from a root file system
    Import {
        /// The files, as a tar archive, plain or gzip; `-` reads standard input
        #[arg(value_name = "ROOTFS.tar")]
        rootfs: PathBuf,
        /// What the image is called, such as `hello:1`
        #[arg(value_name = "NAME:TAG")]
        name: String,
        /// The program and its arguments, split at spaces
        #[arg(long)]
        cmd: Option<String>,
        /// A program that is always run, with `--cmd` as its arguments; split at spaces
        #[arg(long)]
        entrypoint: Option<String>,
        /// A variable of its environment; may be given several times
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// The folder that it starts in
        #[arg(long, value_name = "DIR", default_value = "/")]
        workdir: String,
    },
    /// Load images from an archive
    Load {
        /// An OCI layout (folder or tar) or a docker archive, plain or gzip
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What to call it, where the archive holds one image
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<String>,
    },
    /// Save images to an archive
    Save {
        /// The images
        #[arg(value_name = "NAME:TAG", required = true)]
        names: Vec<String>,
        /// Where to; without it, standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The archive's format
        #[arg(long, value_enum, default_value_t = ArchiveFormat::Oci)]
        format: ArchiveFormat,
    },
    /// Remove images
    Rm {
        /// The images
        #[arg(value_name = "NAME:TAG", required = true)]
        names: Vec<String>,
    },
}

/// Formats of an archive of images.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// An OCI layout
    Oci,
    /// What `docker save` writes
    Docker,
}

impl ImageCommand {
    /// `load FILE`.
    pub(crate) fn load(file: PathBuf) -> Self {
        Self::Load { file, name: None }
    }
}

pub(crate) fn run(command: ImageCommand, session: &Session) -> Result<(), Failure> {
    run_on_all(&command, &[("this device".into(), session.config()?)])
}

/// Runs a command on the images of several devices of this machine.
pub(crate) fn run_on_all(command: &ImageCommand, devices: &[(String, Config)]) -> Result<(), Failure> {
    for (device, config) in devices {
        let store = ImageStore::open(&config.data_dir.join("images")).map_err(refused)?;
        let label = if devices.len() > 1 { format!("{device}: ") } else { String::new() };
        run_on(command, &store, &label)?;
    }
    Ok(())
}

fn run_on(command: &ImageCommand, store: &ImageStore, label: &str) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls => list(store, label),
        ImageCommand::Import { rootfs, name, cmd, entrypoint, env, workdir } => {
            let name = ImageName::parse(name).map_err(refused)?;
            let words = |text: &Option<String>| {
                text.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect::<Vec<_>>()
            };
            let config = ImageConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                env: env.clone(),
                working_dir: workdir.clone(),
                ..ImageConfig::default()
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = Timestamp(u64::try_from(now.as_millis()).unwrap_or(0));
            let image = if rootfs == Path::new("-") {
                store.import(io::stdin().lock(), &name, &config, now)
            } else {
                let file = File::open(rootfs).doing(|| format!("open {}", rootfs.display()))?;
                store.import(io::BufReader::new(file), &name, &config, now)
            };
            loaded(&image.map_err(refused)?, label)
        }
        ImageCommand::Load { file, name } => {
            let name = name.as_deref().map(ImageName::parse).transpose().map_err(refused)?;
            let images = store.load(file, name.as_ref()).map_err(refused)?;
            images.iter().try_for_each(|image| loaded(image, label))
        }
        ImageCommand::Save { names, output, format } => save(store, names, output.as_deref(), *format),
        ImageCommand::Rm { names } => names.iter().try_for_each(|name| {
            store.remove(&ImageName::parse(name).map_err(refused)?).map_err(refused)?;
            say!("{label}removed {name}")
        }),
    }
}

fn list(store: &ImageStore, label: &str) -> Result<(), Failure> {
    let images = store.list().map_err(refused)?;
    if images.is_empty() {
        note!("{label}no images; load some: kith image load FILE, or kith image import ROOTFS.tar NAME:TAG");
        return Ok(());
    }
    let width = images.iter().map(|image| image.name.to_string().len()).max().unwrap_or(0).max(4);
    say!("{label}{:width$}  {:14}  SIZE", "NAME", "DIGEST")?;
    images.iter().try_for_each(|image| {
        let digest: String = image.digest.to_string().trim_start_matches("sha256:").chars().take(12).collect();
        say!("{label}{:width$}  {digest:14}  {}", image.name.to_string(), size(image.size))
    })
}

fn loaded(image: &Image, label: &str) -> Result<(), Failure> {
    say!("{label}loaded {} ({}, {})", image.name, image.digest, size(image.size))
}

fn save(store: &ImageStore, names: &[String], output: Option<&Path>, format: ArchiveFormat) -> Result<(), Failure> {
    let names = names.iter().map(|name| ImageName::parse(name)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let format = match format {
        ArchiveFormat::Oci => Format::Oci,
        ArchiveFormat::Docker => Format::Docker,
    };
    match output {
        Some(path) => store.save(&names, path, format).map_err(refused),
        None if io::stdout().is_terminal() => {
            let failure = Failure::new(Code::Usage, "an archive does not belong on a terminal");
            Err(failure.hint("name a file with -o FILE, or send the output into a pipe"))
        }
        None => store.save_to(&names, &mut io::stdout().lock(), format).map_err(refused),
    }
}

fn refused(error: ImageError) -> Failure {
    Failure::of(Code::Failed, &error)
}

/// Bytes for people: `1.4 MB`.
fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut tenths = bytes.saturating_mul(10) / 1000;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

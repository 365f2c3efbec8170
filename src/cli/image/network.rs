//! `kith image pull` and `push`: what is shown while they work.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::super::describe::now;
use super::super::failure::{Doing, Failure};
use super::super::output::{note, say, size};
use crate::config::Config;
use crate::images::{Image, ImageError, ImageName, ImageStore, Keychain, Progress, Puller, Wall};

/// Pause between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Names of the images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Credentials as docker login writes them, beside those of agent.toml
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name of the image on this device
    #[arg(value_name = "NAME:TAG")]
    name: String,
    /// Where to push it, when that is another name
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Credentials as docker login writes them, beside those of agent.toml
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn pull(args: &PullArgs, store: &ImageStore, config: &Config, label: &str) -> Result<(), Failure> {
    let keychain = keychain(args.authfile.as_ref())?;
    let puller = puller(store, config);
    for text in &args.names {
        let name = ImageName::parse(text)?;
        let progress = Progress::default();
        let work = puller.pull(&name, &keychain, &progress);
        let pulled = super::super::wait(shown(work, &name, &progress, args.quiet))?;
        if !args.quiet {
            let Image { name, digest, .. } = &pulled.image;
            match pulled.brought {
                0 => say!("{label}image {name} is up to date ({digest})")?,
                bytes => say!("{label}image {name} pulled ({}, {digest})", size(bytes))?,
            }
        }
    }
    Ok(())
}

pub(super) fn push(args: &PushArgs, store: &ImageStore, config: &Config, label: &str) -> Result<(), Failure> {
    let name = ImageName::parse(&args.name)?;
    let target = args.target.as_deref().map_or_else(|| Ok(name.clone()), ImageName::parse)?;
    let keychain = keychain(args.authfile.as_ref())?;
    let puller = puller(store, config);
    let progress = Progress::default();
    let work = puller.push(&name, &target, &keychain, &progress);
    let image = super::super::wait(shown(work, &target, &progress, args.quiet))?;
    if args.quiet {
        return Ok(());
    }
    say!("{label}image {target} pushed ({}, {})", size(progress.brought()), image.digest)
}

fn puller(store: &ImageStore, config: &Config) -> Puller {
    let wall: Wall = Arc::new(now);
    Puller::new(store.clone(), config.registries.clone(), &config.images, wall)
}

fn keychain(authfile: Option<&PathBuf>) -> Result<Keychain, Failure> {
    let mut keychain = Keychain::default();
    if let Some(path) = authfile {
        let bytes = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
        keychain.add_docker_config(&bytes, &path.display().to_string())?;
    }
    Ok(keychain)
}

/// Shows how far the work is, on a terminal; a pipe gets nothing until the end.
async fn shown<T>(
    work: impl Future<Output = Result<T, ImageError>>,
    name: &ImageName,
    progress: &Progress,
    quiet: bool,
) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    let live = !quiet && std::io::stderr().is_terminal();
    let mut drawn = false;
    let done = loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => break done,
            Err(_) if live => {
                draw(&line(name, progress));
                drawn = true;
            }
            Err(_) => {}
        }
    };
    if drawn {
        draw("");
    }
    if let Err(error) = &done
        && progress.done() > 0
        && error.is_unreachable()
    {
        note!("What came stays: the next pull goes on from there.");
    }
    done.map_err(|error| {
        let damaged = matches!(error, ImageError::Damaged { .. });
        let failure = Failure::from(error);
        if damaged {
            failure.hint("the registry, or a cache before it, sent something else than it promised")
        } else {
            failure
        }
    })
}

/// How far it is, on one line.
fn line(name: &ImageName, progress: &Progress) -> String {
    let (done, total, (layers, all)) = (progress.done(), progress.total(), progress.layers());
    match done.saturating_mul(100).checked_div(total) {
        None => format!("{name}: asking the registry"),
        Some(percent) => {
            format!("{name}: {:>3} %  {} of {}, {layers} of {all} layers", percent.min(100), size(done), size(total))
        }
    }
}

/// Draws over the last line.
fn draw(line: &str) {
    let mut terminal = std::io::stderr().lock();
    let _ = write!(terminal, "\r\x1b[2K{line}");
    let _ = terminal.flush();
}

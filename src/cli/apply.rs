//! `kith apply`: objects become what files say.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{Ask, Client, media, query};
use super::failure::{Code, Failure};
use super::manifests::{self, Manifest};
use super::output::{note, say};
use super::target::{Namespace, title};

/// Who applies, as the objects' managed fields name it.
const FIELD_MANAGER: &str = "kith";

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File, folder, or - for standard input; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    namespace: Namespace,
    /// Check with the fleet what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: &ApplyArgs, client: &Client) -> Result<(), Failure> {
    let mut worst = None;
    for manifest in manifests::read(&args.files, &args.namespace)? {
        match apply(&manifest, args.dry_run, client).await {
            Ok(done) => say!("{done}")?,
            // Nobody is there: the rest would fare no better.
            Err(failure) if failure.code == Code::Unreachable || failure.chain.is_empty() => return Err(failure),
            Err(failure) => {
                note!("{}", failure.text().trim_end());
                worst.get_or_insert(failure.code);
            }
        }
    }
    worst.map_or(Ok(()), |code| Err(Failure::said(code)))
}

/// What an object was before, and what it is, or with `dry_run` would be, once it is applied.
pub(super) async fn change(
    manifest: &Manifest,
    dry_run: bool,
    client: &Client,
) -> Result<(Option<Value>, Value), Failure> {
    let path = manifest.target.path(manifest.namespace.as_deref());
    let before = client.find(&path).await?;
    let mut pairs = vec![("fieldManager", FIELD_MANAGER.to_owned()), ("force", "true".to_owned())];
    if dry_run {
        pairs.push(("dryRun", "All".to_owned()));
    }
    let path = format!("{path}{}", query(pairs));
    let body = manifest.object.to_string();
    let ask = Ask::new(Method::PATCH, &path).body(media::APPLY_PATCH, body);
    let after: Value = client.json(ask).await?;
    Ok((before, after))
}

async fn apply(manifest: &Manifest, dry_run: bool, client: &Client) -> Result<String, Failure> {
    let title = title(manifest.target.kind, manifest.target.name.as_deref().unwrap_or_default());
    let changed = change(manifest, dry_run, client).await;
    let (before, after) = changed.map_err(|failure| failure.during(format!("apply {title}")))?;
    let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let done = match before {
        None => "created",
        Some(before) if dry_run && without_revision(&before) == without_revision(&after) => "unchanged",
        Some(before) if !dry_run && revision(&before) == revision(&after) => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{title} {done}{}", if dry_run { " (dry run)" } else { "" }))
}

pub(super) fn without_revision(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    object
}

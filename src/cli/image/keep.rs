//! `kith image prune` and `inspect`: what could go, and what an image is made of.

use clap::Args;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::{self, Format, note, say, size};
use crate::images::{Image, ImageError, ImageName, ImageStore, Scope};

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also images that no container runs from and that ran last for no workload
    #[arg(short, long)]
    all: bool,
    /// Say what would go, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names of the images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How to print [default: json]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) fn prune(args: &PruneArgs, store: &ImageStore, label: &str) -> Result<(), Failure> {
    // Broken downloads and what no name leads to always go; images only when all are meant.
    let wanted = if args.all { u64::MAX } else { 0 };
    let cleared = store.make_room(wanted, &Scope::default(), args.dry_run)?;
    let (would, freed) = if args.dry_run { ("would be ", "would be freed") } else { ("", "freed") };
    for image in &cleared.images {
        say!("{label}image {image} {would}removed")?;
    }
    if cleared.images.is_empty() && !args.all {
        note!("Images stay: with --all those go too that nothing runs from.");
    }
    say!("{label}{} {freed}", size(cleared.bytes))
}

pub(super) fn inspect(args: &InspectArgs, store: &ImageStore) -> Result<(), Failure> {
    let mut found = Vec::new();
    for text in &args.names {
        let name = ImageName::parse(text)?;
        let image = store.resolve(&name)?.ok_or_else(|| ImageError::Unknown(name.clone()))?;
        found.push(object(&image));
    }
    let whole = if found.len() == 1 { found.remove(0) } else { json!({ "items": found }) };
    match args.output {
        Some(Format::Yaml) => output::yaml(&whole),
        Some(Format::Name) => args.names.iter().try_for_each(|name| say!("{name}")),
        Some(Format::Json | Format::Wide) | None => output::json(&whole),
    }
}

/// An image with its layers.
fn object(image: &Image) -> Value {
    let mut object = super::object(image);
    let (registry, repository) = image.name.location();
    let layers = image
        .layers
        .iter()
        .map(|layer| json!({"digest": layer.blob.to_string(), "diffID": layer.tar.to_string(), "size": layer.size}));
    object["layers"] = layers.collect();
    object["registry"] = json!(registry);
    object["repository"] = json!(repository);
    object
}

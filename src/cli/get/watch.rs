//! `kith get -w`: a list, then what changes after it. A watch that ends is taken up again where it
//! was; one that is too old starts again from a list.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;

use super::{GetArgs, View, complete};
use crate::cli::client::{Ask, Client, media, refusal};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Format, say};
use crate::cli::target::{Target, items, name_of, title};

/// Pause before a watch that ended is taken up again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a watch went no further.
enum Ended {
    /// Nothing more came: go on from the last revision.
    Quietly,
    /// The revision is too old: list again.
    Gone,
}

pub(super) async fn run(target: &Target, args: &GetArgs, client: &Client) -> Result<(), Failure> {
    let mut view = View::new(target.kind, args, false);
    loop {
        let mut revision = list(target, args, client, &mut view).await?;
        loop {
            match follow(target, args, client, &mut view, &mut revision).await? {
                Ended::Gone => break,
                Ended::Quietly => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

fn is_table(args: &GetArgs) -> bool {
    matches!(args.output, None | Some(Format::Wide))
}

fn accepted(args: &GetArgs) -> &'static str {
    if is_table(args) { media::TABLE } else { media::JSON }
}

async fn list(target: &Target, args: &GetArgs, client: &Client, view: &mut View) -> Result<String, Failure> {
    let path = target.collection(args.scope(), args.selectors.pairs());
    let mut answer: Value = client.json(Ask::get(&path).accept(accepted(args))).await?;
    let revision = answer["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    if is_table(args) {
        view.add(&answer);
        view.table.print()?;
    } else {
        for item in items(&mut answer) {
            show(&complete(item, target.kind), target, args)?;
        }
    }
    Ok(revision)
}

async fn follow(
    target: &Target,
    args: &GetArgs,
    client: &Client,
    view: &mut View,
    revision: &mut String,
) -> Result<Ended, Failure> {
    let mut pairs = args.selectors.pairs();
    pairs.extend([
        ("watch", "1".to_owned()),
        ("allowWatchBookmarks", "true".to_owned()),
        ("resourceVersion", revision.clone()),
    ]);
    let path = target.collection(args.scope(), pairs);
    let mut stream = match client.stream(Ask::get(&path).accept(accepted(args))).await {
        Ok(stream) => stream,
        Err(failure) if failure.status == Some(StatusCode::GONE) => return Ok(Ended::Gone),
        Err(failure) => return Err(failure),
    };
    while let Some(line) = stream.line().await? {
        let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
        let object = &event["object"];
        if let Some(seen) = revision_of(object) {
            seen.clone_into(revision);
        }
        match event["type"].as_str().unwrap_or_default() {
            "BOOKMARK" => {}
            "ERROR" if object["code"] == 410 => return Ok(Ended::Gone),
            "ERROR" => {
                let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
                let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Err(refusal(status, object.to_string().as_bytes()));
            }
            _ if is_table(args) => {
                view.add(object);
                view.table.print()?;
            }
            _ => show(object, target, args)?,
        }
    }
    Ok(Ended::Quietly)
}

/// The revision of an object, or of the row in a Table of one.
fn revision_of(object: &Value) -> Option<&str> {
    let row = &object["rows"][0]["object"]["metadata"]["resourceVersion"];
    row.as_str().or_else(|| object["metadata"]["resourceVersion"].as_str()).filter(|text| !text.is_empty())
}

fn show(object: &Value, target: &Target, args: &GetArgs) -> Result<(), Failure> {
    match args.output {
        Some(Format::Name) => say!("{}", title(target.kind, name_of(object))),
        Some(Format::Yaml) => {
            say!("---")?;
            output::yaml(object)
        }
        _ => output::json(object),
    }
}

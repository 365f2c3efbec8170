//! `kith delete`: objects go, and by default the command waits until they are gone.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Ask, Client, media, query};
use super::failure::{Code, Failure};
use super::output::{note, say};
use super::target::{self, Namespace, Selectors, Target, items, name_of, namespace_of, title};
use super::{manifests, parse_span};

/// First pause between looks at an object that is going; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// TYPE NAME, or TYPE/NAME
    #[arg(value_name = "OBJECT", required_unless_present = "files")]
    objects: Vec<String>,
    /// What these files describe: file, folder, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "objects")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    namespace: Namespace,
    #[command(flatten)]
    selectors: Selectors,
    /// Every object of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that containers get to stop by themselves [default: what each pod says]
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Stop at once, without grace
    #[arg(long, conflicts_with = "grace_period")]
    force: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_span, default_value = "2m", value_name = "SPAN")]
    timeout: Duration,
    /// An object that does not exist is no failure
    #[arg(long)]
    ignore_not_found: bool,
    /// Check with the fleet what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// An object that is to go.
struct Victim {
    target: Target,
    path: String,
    name: String,
}

pub(crate) async fn run(args: &DeleteArgs, client: &Client) -> Result<(), Failure> {
    let mut worst = None;
    let mut going = Vec::new();
    for victim in victims(args, client).await? {
        match delete(&victim, args, client).await {
            Ok(uid) => {
                say!("{} deleted{}", quoted(&victim), if args.dry_run { " (dry run)" } else { "" })?;
                going.push((victim, uid));
            }
            Err(failure) if failure.code != Code::Refused => return Err(failure),
            Err(failure) => {
                note!("{}", failure.text().trim_end());
                worst.get_or_insert(failure.code);
            }
        }
    }
    if args.wait && !args.dry_run {
        let gone = async {
            for (victim, uid) in &going {
                wait_until_gone(victim, uid.as_deref(), client).await?;
            }
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(args.timeout, gone).await.map_err(|_| {
            Failure::failed(format!("not everything was gone after {:?}", args.timeout))
                .hint("kith get shows what is left; a device that can not be reached stops its pods when it is back")
        })??;
    }
    worst.map_or(Ok(()), |code| Err(Failure::said(code)))
}

fn quoted(victim: &Victim) -> String {
    let kind = victim.target.kind;
    let dot = if kind.group.is_empty() { "" } else { "." };
    format!("{}{dot}{} \"{}\"", kind.singular, kind.group, victim.name)
}

async fn victims(args: &DeleteArgs, client: &Client) -> Result<Vec<Victim>, Failure> {
    if !args.files.is_empty() {
        let read = manifests::read(&args.files, &args.namespace)?;
        return Ok(read
            .into_iter()
            .map(|m| victim(m.target.kind, m.namespace.as_deref(), name_of(&m.object)))
            .collect());
    }
    let mut found = Vec::new();
    for target in target::parse(&args.objects)? {
        match &target.name {
            Some(_) if args.all || !args.selectors.is_empty() => {
                return Err(Failure::usage("give names, or --all, or a selector: not both"));
            }
            Some(name) => found.push(victim(target.kind, Some(args.namespace.name()), name)),
            None if !args.all && args.selectors.is_empty() => {
                return Err(Failure::usage(format!("say which {}: a NAME, -l LABELS, or --all", target.kind.plural)));
            }
            None => {
                let path = target.collection(Some(args.namespace.name()), args.selectors.pairs());
                let mut list: Value = client.get(&path).await?;
                let all = items(&mut list);
                found.extend(all.iter().map(|o| victim(target.kind, Some(namespace_of(o)), name_of(o))));
            }
        }
    }
    if found.is_empty() {
        note!("No resources found.");
    }
    Ok(found)
}

fn victim(kind: &'static crate::resource::Kind, namespace: Option<&str>, name: &str) -> Victim {
    let target = Target { kind, name: Some(name.to_owned()) };
    Victim { path: target.path(namespace), target, name: name.to_owned() }
}

/// Asks for the deletion; returns the object's uid where the server tells it.
async fn delete(victim: &Victim, args: &DeleteArgs, client: &Client) -> Result<Option<String>, Failure> {
    let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
    if let Some(seconds) = args.grace_period.or_else(|| args.force.then_some(0)) {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    let dry_run = args.dry_run.then(|| ("dryRun", "All".to_owned()));
    let path = format!("{}{}", victim.path, query(dry_run));
    let ask = Ask::new(Method::DELETE, &path).body(media::JSON, options.to_string());
    match client.json::<Value>(ask).await {
        Ok(answer) => {
            let uid = answer["metadata"]["uid"].as_str().or_else(|| answer["details"]["uid"].as_str());
            Ok(uid.map(str::to_owned))
        }
        Err(failure) if args.ignore_not_found && is_absent(&failure) => Ok(None),
        Err(failure) => Err(failure.during(format!("delete {}", title(victim.target.kind, &victim.name)))),
    }
}

fn is_absent(failure: &Failure) -> bool {
    failure.status == Some(StatusCode::NOT_FOUND)
}

async fn wait_until_gone(victim: &Victim, uid: Option<&str>, client: &Client) -> Result<(), Failure> {
    let mut pause = FIRST_PAUSE;
    while let Some(found) = client.find(&victim.path).await? {
        // Another object under the same name is not the one that goes.
        let found = found["metadata"]["uid"].as_str();
        if uid.is_some() && found != uid {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

//! `kith logs`: what containers wrote, of one pod or of all that a selector or a Deployment means.

use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::client::{Ask, Client, query};
use super::failure::{Code, Failure};
use super::output::{note, raw};
use super::parse_span;
use super::target::{self, Namespace, Target, items, name_of, title};
use crate::resource::kind;

/// Lines that are shown of each pod when a selector names many.
const SELECTED_TAIL: u64 = 10;
/// The most containers that are followed at once.
const FOLLOW_LIMIT: usize = 50;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// POD, pod/NAME or deployment/NAME
    #[arg(value_name = "OBJECT", required_unless_present = "selector", conflicts_with = "selector")]
    object: Option<String>,
    /// All pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// Container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// All containers of the pod
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on printing what is written
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines [default: all, with -l 10]
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is not older: 10s, 5m, 1h
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    since: Option<Duration>,
    /// Only what is not older than this moment: 2026-01-31T07:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    since_time: Option<jiff::Timestamp>,
    /// Of the container before its last restart
    #[arg(short, long)]
    previous: bool,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Begin each line with its pod and container
    #[arg(long)]
    prefix: bool,
    /// The most logs to follow at once
    #[arg(long, default_value_t = FOLLOW_LIMIT, value_name = "NUMBER")]
    max_log_requests: usize,
}

/// One container whose log is read.
struct Source {
    pod: String,
    container: Option<String>,
}

pub(crate) async fn run(args: &LogsArgs, client: &Client) -> Result<(), Failure> {
    let sources = sources(args, client).await?;
    if sources.is_empty() {
        note!("No pods found in {} namespace.", args.namespace.name());
        return Ok(());
    }
    let prefixed = args.prefix || sources.len() > 1;
    if !args.follow {
        for source in &sources {
            read(source, prefixed, args, client).await?;
        }
        return Ok(());
    }
    let limit = args.max_log_requests;
    if sources.len() > limit {
        let message = format!("{} logs are too many to follow at once: {limit}", sources.len());
        return Err(Failure::usage(message).hint("select fewer pods, or raise --max-log-requests"));
    }
    try_join_all(sources.iter().map(|source| async move {
        match read(source, prefixed, args, client).await {
            // One pod that is gone does not end the others.
            Err(failure) if prefixed && failure.code == Code::Refused => {
                note!("{}", failure.text().trim_end());
                Ok(())
            }
            other => other,
        }
    }))
    .await
    .map(drop)
}

async fn sources(args: &LogsArgs, client: &Client) -> Result<Vec<Source>, Failure> {
    if let Some(selector) = &args.selector {
        return selected(selector, args, client).await;
    }
    let object = args.object.as_deref().unwrap_or_default();
    let words = if object.contains('/') { vec![object.to_owned()] } else { vec!["pod".to_owned(), object.to_owned()] };
    let targets = target::parse(&words)?;
    let [target] = &targets[..] else { return Err(Failure::usage("say one pod, or a selector with -l")) };
    let found: Value = client.get(&target.path(Some(args.namespace.name()))).await?;
    if target.kind == &kind::POD {
        return Ok(of_pod(&found, args));
    }
    let Some(labels) = found["spec"]["selector"]["matchLabels"].as_object() else {
        return Err(Failure::usage(format!("{} has no pods", title(target.kind, name_of(&found)))));
    };
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or(""))).collect();
    selected(&pairs.join(","), args, client).await
}

async fn selected(selector: &str, args: &LogsArgs, client: &Client) -> Result<Vec<Source>, Failure> {
    let pods = Target { kind: &kind::POD, name: None };
    let path = pods.collection(Some(args.namespace.name()), vec![("labelSelector", selector.to_owned())]);
    let mut list: Value = client.get(&path).await?;
    Ok(items(&mut list).iter().flat_map(|pod| of_pod(pod, args)).collect())
}

fn of_pod(pod: &Value, args: &LogsArgs) -> Vec<Source> {
    let listed = |list: &str| pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str());
    let names = || listed("containers");
    let source =
        |container: Option<&str>| Source { pod: name_of(pod).to_owned(), container: container.map(str::to_owned) };
    if args.all_containers {
        let all = listed("initContainers").chain(names()).chain(listed("ephemeralContainers"));
        return all.map(|name| source(Some(name))).collect();
    }
    let chosen = args.container.as_deref().or_else(|| names().next());
    if args.container.is_none() && names().count() > 1 {
        let rest: Vec<_> = names().collect();
        note!("{}: showing {} of {} (-c, --all-containers)", name_of(pod), rest[0], rest.join(", "));
    }
    vec![source(chosen)]
}

async fn read(source: &Source, prefixed: bool, args: &LogsArgs, client: &Client) -> Result<(), Failure> {
    let target = Target { kind: &kind::POD, name: Some(source.pod.clone()) };
    let path = format!("{}/log{}", target.path(Some(args.namespace.name())), query(pairs(source, args)));
    let mut stream = client.stream(Ask::get(&path).accept("*/*")).await?;
    if !prefixed {
        while let Some(bytes) = stream.chunk().await? {
            raw(&bytes)?;
        }
        return Ok(());
    }
    let container = source.container.as_deref().unwrap_or_default();
    let prefix = format!("[{}/{container}] ", source.pod);
    while let Some(line) = stream.line().await? {
        raw(&[prefix.as_bytes(), &line, b"\n"].concat())?;
    }
    Ok(())
}

fn pairs(source: &Source, args: &LogsArgs) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    pairs.extend(source.container.iter().map(|name| ("container", name.clone())));
    let tail = args.tail.or_else(|| args.selector.is_some().then_some(SELECTED_TAIL));
    pairs.extend(tail.map(|lines| ("tailLines", lines.to_string())));
    pairs.extend(args.since.map(|span| ("sinceSeconds", span.as_secs().max(1).to_string())));
    pairs.extend(args.since_time.map(|time| ("sinceTime", time.to_string())));
    let flags = [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)];
    pairs.extend(flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "true".to_owned())));
    pairs
}

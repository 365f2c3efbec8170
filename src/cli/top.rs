//! `kith top`: what devices and pods use now.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, escape, query};
use super::failure::Failure;
use super::output::{Table, note};
use super::target::{Namespace, name_of, namespace_of};
use crate::resource::Quantity;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

#[derive(Debug, Subcommand)]
pub(crate) enum TopCommand {
    /// What devices use
    #[command(alias = "node", alias = "no")]
    Nodes(NodesArgs),
    /// What pods use
    #[command(alias = "pod", alias = "po")]
    Pods(PodsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Only this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PodsArgs {
    /// Only this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// Only pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "name")]
    selector: Option<String>,
    /// Each container by itself
    #[arg(long)]
    containers: bool,
}

pub(crate) async fn run(command: &TopCommand, client: &Client) -> Result<(), Failure> {
    match command {
        TopCommand::Nodes(args) => nodes(args, client).await,
        TopCommand::Pods(args) => pods(args, client).await,
    }
}

/// The items of a list, or the one object.
fn items(mut found: Value) -> Vec<Value> {
    match found["items"].take() {
        Value::Array(items) => items,
        _ => vec![found],
    }
}

async fn nodes(args: &NodesArgs, client: &Client) -> Result<(), Failure> {
    let one = args.name.as_deref().map(|name| format!("/{}", escape(name))).unwrap_or_default();
    let used = items(client.get(&format!("{METRICS}/nodes{one}")).await?);
    let known = items(client.get(&format!("/api/v1/nodes{one}")).await?);
    let mut table = Table::new(["NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"]);
    for node in &known {
        let Some(found) = used.iter().find(|found| name_of(found) == name_of(node)) else {
            table.row([name_of(node), "<unknown>", "<unknown>", "<unknown>", "<unknown>"]);
            continue;
        };
        let whole = |name: &str| milli(&node["status"]["allocatable"][name]);
        let (cpu, memory) = (milli(&found["usage"]["cpu"]), milli(&found["usage"]["memory"]));
        let percent = |part: u64, whole: u64| {
            part.saturating_mul(100).checked_div(whole).map_or_else(String::new, |p| format!("{p}%"))
        };
        table.row([
            name_of(node).to_owned(),
            format!("{cpu}m"),
            percent(cpu, whole("cpu")),
            mebibytes(memory),
            percent(memory, whole("memory")),
        ]);
    }
    table.print()
}

async fn pods(args: &PodsArgs, client: &Client) -> Result<(), Failure> {
    let namespace = escape(args.namespace.name());
    let namespace = if args.all_namespaces { String::new() } else { format!("/namespaces/{namespace}") };
    let one = args.name.as_deref().map(|name| format!("/{}", escape(name))).unwrap_or_default();
    let labels = query(args.selector.iter().map(|labels| ("labelSelector", labels.clone())));
    let found = items(client.get(&format!("{METRICS}{namespace}/pods{one}{labels}")).await?);
    if found.is_empty() {
        note!("No resources found in {} namespace.", args.namespace.name());
        return Ok(());
    }
    let mut headings = Vec::from_iter(args.all_namespaces.then_some("NAMESPACE"));
    headings.push(if args.containers { "POD" } else { "NAME" });
    headings.extend(args.containers.then_some("NAME"));
    headings.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let mut table = Table::new(headings);
    for pod in &found {
        let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = |container: Option<&str>, used: &[&Value]| {
            let sum = |name: &str| used.iter().map(|one| milli(&one["usage"][name])).sum::<u64>();
            let mut cells = Vec::from_iter(args.all_namespaces.then(|| namespace_of(pod).to_owned()));
            cells.push(name_of(pod).to_owned());
            cells.extend(container.map(str::to_owned));
            cells.extend([format!("{}m", sum("cpu")), mebibytes(sum("memory"))]);
            cells
        };
        if args.containers {
            for one in containers {
                table.row(row(Some(one["name"].as_str().unwrap_or_default()), &[one]));
            }
        } else {
            table.row(row(None, &containers.iter().collect::<Vec<_>>()));
        }
    }
    table.print()
}

/// Thousandths of a quantity, rounded up; 0 for none.
fn milli(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_default();
    text.parse::<Quantity>().map_or(0, Quantity::millis)
}

fn mebibytes(milli: u64) -> String {
    format!("{}Mi", milli / 1000 / (1 << 20))
}

//! `kith events`: what has happened, latest last.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::describe::{age, last_seen, now};
use super::failure::Failure;
use super::output::{self, Format, Table, note};
use super::target::{self, Namespace, Target, items, namespace_of};
use crate::resource::kind;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only of this object: TYPE/NAME
    #[arg(long = "for", value_name = "OBJECT")]
    of: Option<String>,
    /// Only of these types: Warning, Normal
    #[arg(long, value_delimiter = ',', value_name = "TYPE")]
    types: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(crate) async fn run(args: &EventsArgs, client: &Client) -> Result<(), Failure> {
    let mut selectors = Vec::new();
    let mut namespace = (!args.all_namespaces).then(|| args.namespace.name());
    if let Some(of) = &args.of {
        let of = match &target::parse(std::slice::from_ref(of))?[..] {
            [Target { kind, name: Some(name) }] => (*kind, name.clone()),
            _ => return Err(Failure::usage("--for takes one object: TYPE/NAME")),
        };
        selectors.push(format!("involvedObject.kind={},involvedObject.name={}", of.0.kind, of.1));
        // Events of what has no namespace are in the default one.
        namespace = namespace.filter(|_| of.0.namespaced);
    }
    let path = Target { kind: &kind::EVENT, name: None }.path(namespace);
    let fields = query(selectors.into_iter().map(|selector| ("fieldSelector", selector)));
    let mut list: Value = client.get(&format!("{path}{fields}")).await?;
    let mut events = items(&mut list);
    events.retain(|event| args.types.is_empty() || args.types.iter().any(|wanted| event["type"] == wanted.as_str()));
    events.sort_by(|a, b| last_seen(a).cmp(last_seen(b)));
    match args.output {
        Some(Format::Json) => return output::json(&events),
        Some(Format::Yaml) => return output::yaml(&events),
        Some(Format::Wide | Format::Name) | None => {}
    }
    if events.is_empty() {
        note!("No events found.");
        return Ok(());
    }
    let mut headings = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    if args.all_namespaces {
        headings.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(headings);
    let now = now();
    for event in &events {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = &event["involvedObject"];
        let object = format!("{}/{}", text(&of["kind"]).to_lowercase(), text(&of["name"]));
        let mut row =
            vec![age(event, now), text(&event["type"]), text(&event["reason"]), object, text(&event["message"])];
        if args.all_namespaces {
            row.insert(0, namespace_of(event).to_owned());
        }
        table.row(row);
    }
    table.print()
}

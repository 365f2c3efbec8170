//! `kith get`: objects as a table (made by the server), as JSON or YAML, or as names; once or as
//! they change.

mod watch;

use clap::Args;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::client::{Ask, Client, media, query};
use super::failure::{Code, Failure};
use super::output::{self, Format, Table, note, say};
use super::target::{self, Namespace, Selectors, Target, items, name_of, namespace_of, title};
use crate::resource::{Kind, kind};

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// TYPE, TYPE NAME, TYPE/NAME; several types with commas: pods,deploy; or all
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[command(flatten)]
    selectors: Selectors,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Go on printing what changes
    #[arg(short, long)]
    watch: bool,
    /// Leave the headings out
    #[arg(long)]
    no_headers: bool,
    /// An object that does not exist is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

impl GetArgs {
    fn scope(&self) -> Option<&str> {
        (!self.all_namespaces).then(|| self.namespace.name())
    }
}

pub(crate) async fn run(args: &GetArgs, client: &Client) -> Result<(), Failure> {
    let targets = target::parse(&args.objects)?;
    let named = targets.iter().any(|target| target.name.is_some());
    if named && args.all_namespaces {
        return Err(Failure::usage("a name belongs to one namespace: -A lists, it does not look for a name"));
    }
    if named && !args.selectors.is_empty() {
        return Err(Failure::usage("give a name or a selector, not both"));
    }
    if args.watch {
        let [target] = &targets[..] else {
            return Err(Failure::usage("-w watches one kind, or one object"));
        };
        return watch::run(target, args, client).await;
    }
    match args.output {
        None | Some(Format::Wide) => tables(&targets, args, client).await,
        Some(format) => objects(&targets, format, args, client).await,
    }
}

/// What of several reads did not work, told at the end so that the rest is seen.
#[derive(Default)]
struct Troubles(Vec<Failure>);

impl Troubles {
    /// Keeps a refusal for later; passes on what ends the whole command.
    fn keep<T>(&mut self, result: Result<T, Failure>, ignore_absent: bool) -> Result<Option<T>, Failure> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.code != Code::Refused => Err(failure),
            Err(failure) if ignore_absent && failure.status == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => {
                self.0.push(failure);
                Ok(None)
            }
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        let Some(last) = self.0.pop() else { return Ok(()) };
        for failure in self.0 {
            note!("{}", failure.text().trim_end());
        }
        Err(last)
    }
}

async fn objects(targets: &[Target], format: Format, args: &GetArgs, client: &Client) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut troubles = Troubles::default();
    let single = matches!(targets, [Target { name: Some(_), .. }]);
    for target in targets {
        let path = format!("{}{}", target.path(args.scope()), query(args.selectors.pairs()));
        let Some(mut answer) = troubles.keep(client.get::<Value>(&path).await, args.ignore_not_found)? else {
            continue;
        };
        if target.name.is_some() {
            found.push((target.kind, answer));
        } else {
            let mut listed = items(&mut answer);
            listed.sort_by(|a, b| (namespace_of(a), name_of(a)).cmp(&(namespace_of(b), name_of(b))));
            found.extend(listed.into_iter().map(|item| (target.kind, complete(item, target.kind))));
        }
    }
    match format {
        Format::Name => found.iter().try_for_each(|(kind, object)| say!("{}", title(kind, name_of(object))))?,
        Format::Json | Format::Yaml | Format::Wide => {
            let mut objects: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
            let whole = match objects.pop() {
                Some(object) if single => Some(object),
                None if single => None,
                last => {
                    objects.extend(last);
                    Some(json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects }))
                }
            };
            if let Some(whole) = whole {
                if format == Format::Yaml { output::yaml(&whole)? } else { output::json(&whole)? }
            }
        }
    }
    troubles.end()
}

/// Items of a list come without the kind that the list has already told.
fn complete(mut item: Value, kind: &Kind) -> Value {
    if item.get("kind").is_none() {
        item["apiVersion"] = Value::from(kind.api_version());
        item["kind"] = Value::from(kind.kind);
    }
    item
}

async fn tables(targets: &[Target], args: &GetArgs, client: &Client) -> Result<(), Failure> {
    let several = targets.iter().any(|target| target.kind != targets[0].kind);
    let mut troubles = Troubles::default();
    let mut printed = false;
    for group in targets.chunk_by(|a, b| a.kind == b.kind) {
        let mut view = View::new(group[0].kind, args, several);
        for target in group {
            let path = format!("{}{}", target.path(args.scope()), query(args.selectors.pairs()));
            let ask = Ask::get(&path).accept(media::TABLE);
            let Some(answer) = troubles.keep(client.json::<Value>(ask).await, args.ignore_not_found)? else { continue };
            view.add(&answer);
        }
        if view.is_empty() {
            continue;
        }
        if printed {
            say!("")?;
        }
        view.table.print()?;
        printed = true;
    }
    if !printed && troubles.0.is_empty() && targets.iter().all(|target| target.name.is_none()) {
        match args.scope() {
            Some(namespace) if targets.iter().any(|target| target.kind.namespaced) => {
                note!("No resources found in {namespace} namespace.");
            }
            _ => note!("No resources found."),
        }
    }
    troubles.end()
}

/// One kind's rows, as the flags want them.
struct View {
    kind: &'static Kind,
    wide: bool,
    headings: bool,
    namespaces: bool,
    titles: bool,
    columns: Vec<(String, bool)>,
    table: Table,
    rows: usize,
}

impl View {
    fn new(kind: &'static Kind, args: &GetArgs, titles: bool) -> Self {
        Self {
            kind,
            wide: args.output == Some(Format::Wide),
            headings: !args.no_headers,
            namespaces: args.all_namespaces && kind.namespaced,
            titles,
            columns: Vec::new(),
            table: Table::bare(),
            rows: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds the rows of a Table; anything else is shown by its name.
    fn add(&mut self, answer: &Value) {
        if answer["kind"] != "Table" {
            let objects = answer["items"].as_array().map_or_else(|| vec![answer], |items| items.iter().collect());
            self.set_columns(vec![("NAME".to_owned(), true)]);
            for object in objects {
                self.add_row(object, &[Value::from(name_of(object))]);
            }
            return;
        }
        if let Some(columns) = answer["columnDefinitions"].as_array().filter(|columns| !columns.is_empty()) {
            let parse = |column: &Value| {
                let heading = column["name"].as_str().unwrap_or_default().to_uppercase();
                (heading, self.wide || column["priority"].as_i64().unwrap_or(0) == 0)
            };
            self.set_columns(columns.iter().map(parse).collect());
        }
        let mut rows: Vec<&Value> = answer["rows"].as_array().into_iter().flatten().collect();
        if self.kind != &kind::EVENT {
            rows.sort_by_key(|row| (namespace_of(&row["object"]), name_of(&row["object"])));
        }
        for row in rows {
            self.add_row(&row["object"], row["cells"].as_array().map_or(&[][..], Vec::as_slice));
        }
    }

    fn set_columns(&mut self, columns: Vec<(String, bool)>) {
        if !self.columns.is_empty() {
            return;
        }
        self.columns = columns;
        if self.headings {
            let shown = self.columns.iter().filter(|(_, shown)| *shown).map(|(heading, _)| heading.as_str());
            let namespace = self.namespaces.then_some("NAMESPACE");
            self.table.row(namespace.into_iter().chain(shown));
        }
    }

    fn add_row(&mut self, object: &Value, cells: &[Value]) {
        self.rows += 1;
        let mut row = Vec::with_capacity(cells.len() + 1);
        if self.namespaces {
            row.push(namespace_of(object).to_owned());
        }
        for (index, (cell, (heading, shown))) in cells.iter().zip(&self.columns).enumerate() {
            match (shown, index) {
                (false, _) => {}
                (true, 0) if self.titles && heading == "NAME" => row.push(title(self.kind, &text(cell))),
                (true, _) => row.push(text(cell)),
            }
        }
        self.table.row(row);
    }
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GetArgs,
    }

    fn view(line: &str, answer: &Value) -> String {
        let args = Line::parse_from(line.split(' ')).args;
        let targets = target::parse(&args.objects).unwrap();
        let mut view = View::new(targets[0].kind, &args, targets.len() > 1);
        view.add(answer);
        view.table.render()
    }

    fn table() -> Value {
        let row = |namespace: &str, name: &str, node: Value| json!({ "cells": [name, 0, node], "object": { "metadata": { "name": name, "namespace": namespace } } });
        json!({
            "kind": "Table",
            "columnDefinitions": [{ "name": "Name", "priority": 0 }, { "name": "Restarts" }, { "name": "Node", "priority": 1 }],
            "rows": [row("web", "b", json!("d1")), row("a", "z", Value::Null), row("web", "a", json!("d2"))],
        })
    }

    #[test]
    fn rows_are_sorted_and_columns_chosen() {
        assert_eq!(view("get pods", &table()), "NAME   RESTARTS\nz      0\na      0\nb      0\n");
        assert_eq!(
            view("get pods -A -o wide", &table()),
            "NAMESPACE   NAME   RESTARTS   NODE\na           z      0          <none>\nweb         a      0          d2\nweb         b      0          d1\n"
        );
        assert_eq!(view("get deploy,pods --no-headers", &table()).lines().next(), Some("deployment.apps/z   0"));
    }

    #[test]
    fn an_answer_that_is_no_table_is_shown_by_name() {
        let list = json!({ "kind": "PodList", "items": [{ "metadata": { "name": "a" } }] });
        assert_eq!(view("get pods", &list), "NAME\na\n");
    }
}

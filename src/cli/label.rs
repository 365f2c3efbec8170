//! `kith label`: labels of objects, set and taken away.

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::{Ask, Client, media};
use super::failure::Failure;
use super::output::say;
use super::target::{self, Namespace, title};

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// TYPE NAME or TYPE/NAME, then labels: node d1 door=front rack-
    #[arg(required = true, num_args = 2.., value_name = "OBJECT | KEY=VALUE | KEY-")]
    words: Vec<String>,
    /// Though a label has another value already
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    namespace: Namespace,
}

/// Labels to set, and those to take away (`None`).
type Changes = Vec<(String, Option<String>)>;

/// Where the objects end, and the labels begin.
fn split(words: &[String]) -> Result<(&[String], Changes), Failure> {
    let is_label = |word: &String| word.contains('=') || (word.ends_with('-') && word.len() > 1);
    let at = words.iter().position(is_label).unwrap_or(words.len());
    let (objects, labels) = words.split_at(at);
    let change = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
        None if is_label(word) => Ok((word[..word.len() - 1].to_owned(), None)),
        _ => Err(Failure::usage(format!("{word:?} is no label: write KEY=VALUE, or KEY- to take it away"))),
    };
    let changes = labels.iter().map(change).collect::<Result<Changes, _>>()?;
    if changes.is_empty() {
        return Err(Failure::usage("say which labels: KEY=VALUE sets one, KEY- takes it away"));
    }
    Ok((objects, changes))
}

pub(crate) async fn run(args: &LabelArgs, client: &Client) -> Result<(), Failure> {
    let (objects, changes) = split(&args.words)?;
    for target in target::parse(objects)? {
        let Some(name) = &target.name else {
            return Err(Failure::usage("say which object: kith label node/NAME KEY=VALUE"));
        };
        let title = title(target.kind, name);
        let path = target.path(Some(args.namespace.name()));
        let during = |failure: Failure| failure.during(format!("label {title}"));
        let before: Value = client.get(&path).await.map_err(during)?;
        let labels = &before["metadata"]["labels"];
        let mut patch = Map::new();
        for (key, value) in &changes {
            let now = labels[key].as_str();
            if let (Some(now), Some(value)) = (now, value)
                && now != value
                && !args.overwrite
            {
                return Err(Failure::usage(format!("{title} has {key}={now} already")).hint("--overwrite changes it"));
            }
            patch.insert(key.clone(), value.as_ref().map_or(Value::Null, |value| json!(value)));
        }
        // What was looked at is what is changed.
        let revision = &before["metadata"]["resourceVersion"];
        let body = json!({ "metadata": { "labels": patch, "resourceVersion": revision } }).to_string();
        let after: Value =
            client.json(Ask::new(Method::PATCH, &path).body(media::MERGE_PATCH, body)).await.map_err(during)?;
        let done = if after["metadata"]["labels"] == *labels { "not changed" } else { "labeled" };
        say!("{title} {done}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn labels_follow_the_objects() {
        let line = words("node d1 d2 door=front rack- empty=");
        let (objects, changes) = split(&line).unwrap();
        assert_eq!(objects, words("node d1 d2"));
        let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(changes, [change("door", Some("front")), change("rack", None), change("empty", Some(""))]);
        for wrong in ["node d1", "node/d1 a=b c", "node/d1 =b"] {
            assert!(split(&words(wrong)).is_err(), "{wrong}");
        }
    }
}

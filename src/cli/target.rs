//! What a command is about: kinds by any of their names, objects as `TYPE NAME` or `TYPE/NAME`.

use clap::Args;
use serde_json::Value;

use super::client::{escape, query};
use super::failure::{Code, Failure};
use crate::resource::{Kind, kind};

/// The namespace of a command that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Which namespace.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Namespace {
    /// Namespace [default: default]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

impl Namespace {
    /// The namespace's name.
    pub(crate) fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// Which objects among many.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selectors {
    /// Only objects with these labels: app=web, tier!=db, env in (a,b)
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// Only objects with these fields: status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub(crate) field_selector: Option<String>,
}

impl Selectors {
    /// Whether nothing is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.selector.is_none() && self.field_selector.is_none()
    }

    /// As pairs of a query.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let labels = self.selector.iter().map(|text| ("labelSelector", text.clone()));
        labels.chain(self.field_selector.iter().map(|text| ("fieldSelector", text.clone()))).collect()
    }
}

/// A kind, or one object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) name: Option<String>,
}

impl Target {
    /// Its path; `namespace` is `None` for all of them.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let collection = self.kind.path(namespace.map(escape).as_deref());
        match &self.name {
            Some(name) => format!("{collection}/{}", escape(name)),
            None => collection,
        }
    }

    /// The path of its collection, narrowed down to it by selectors where it is one object.
    pub(crate) fn collection(&self, namespace: Option<&str>, mut pairs: Vec<(&'static str, String)>) -> String {
        if let Some(name) = &self.name {
            pairs.push(("fieldSelector", format!("metadata.name={name}")));
        }
        format!("{}{}", self.kind.path(namespace.map(escape).as_deref()), query(pairs))
    }
}

/// Finds a kind by any of its names.
pub(crate) fn find_kind(name: &str) -> Result<&'static Kind, Failure> {
    kind::find(name).ok_or_else(|| {
        let known: Vec<_> = kind::all().iter().map(|kind| kind.plural).collect();
        Failure::new(Code::Usage, format!("there is no kind {name:?}")).hint(format!("kinds: {}", known.join(", ")))
    })
}

/// Parses `TYPE[,TYPE...] [NAME...]` or `TYPE/NAME ...`.
pub(crate) fn parse(words: &[String]) -> Result<Vec<Target>, Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Err(Failure::usage("say which kind of object: pods, deployments, nodes, all"));
    };
    if words.iter().any(|word| word.contains('/')) {
        return words.iter().map(|word| parse_one(word)).collect();
    }
    let mut kinds = Vec::new();
    for name in first.split(',').filter(|name| !name.is_empty()) {
        let category = kind::in_category(name);
        let found = if category.is_empty() { vec![find_kind(name)?] } else { category };
        kinds.extend(found.into_iter().filter(|kind| !kinds.contains(kind)).collect::<Vec<_>>());
    }
    if rest.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Target { kind, name: None }).collect());
    }
    let of_kind = |kind| rest.iter().map(move |name| Target { kind, name: Some(name.clone()) });
    Ok(kinds.into_iter().flat_map(of_kind).collect())
}

fn parse_one(word: &str) -> Result<Target, Failure> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Target { kind: find_kind(kind)?, name: Some(name.to_owned()) })
        }
        _ => Err(Failure::usage(format!("{word:?} is not TYPE/NAME, as the other arguments are"))),
    }
}

/// How an object is called in messages: `pod/a`, `deployment.apps/hello`.
pub(crate) fn title(kind: &Kind, name: &str) -> String {
    if kind.group.is_empty() {
        format!("{}/{name}", kind.singular)
    } else {
        format!("{}.{}/{name}", kind.singular, kind.group)
    }
}

/// An object's name.
pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// An object's namespace; empty where it has none.
pub(crate) fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The items of a list.
pub(crate) fn items(list: &mut Value) -> Vec<Value> {
    list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Vec<String>, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let named = |target: &Target| target.path(Some("web"));
        parse(&words).map(|targets| targets.iter().map(named).collect())
    }

    #[test]
    fn objects_are_named_in_every_way_that_kubectl_knows() {
        let (pods, deployments) = ("/api/v1/namespaces/web/pods", "/apis/apps/v1/namespaces/web/deployments");
        for (line, paths) in [
            ("po", vec![pods.to_owned()]),
            ("po,deploy", vec![pods.to_owned(), deployments.to_owned()]),
            ("pods a b", vec![format!("{pods}/a"), format!("{pods}/b")]),
            ("pod/a deployment.apps/b", vec![format!("{pods}/a"), format!("{deployments}/b")]),
            ("nodes", vec!["/api/v1/nodes".to_owned()]),
        ] {
            assert_eq!(parsed(line).unwrap(), paths, "{line}");
        }
        assert!(parsed("all").unwrap().contains(&deployments.to_owned()));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_failure() {
        for line in ["", "nonsense", "pod/a b", "pod/", "pod/a/b"] {
            assert_eq!(parsed(line).unwrap_err().code, Code::Usage, "{line}");
        }
    }
}

//! Label and field selectors. It decides whether an object is meant; it never changes one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kind::Kind;
use super::names;

/// A selector that can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What holds of it.
    pub test: Test,
}

/// What holds of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// One of these values.
    In(BTreeSet<String>),
    /// Absent, or none of these values.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    Missing,
}

/// A conjunction of requirements; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

impl LabelSelector {
    /// Parses the form of a query: `app=web,tier in (a,b),!old`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut found = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                found.push(requirement(part)?);
            }
        }
        Ok(Self(found))
    }

    /// Reads `{matchLabels, matchExpressions}`.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        let mut found = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            found.push(Requirement { key: key.clone(), test: Test::In(BTreeSet::from([value])) });
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let values: BTreeSet<String> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let test = match text("operator") {
                "In" if !values.is_empty() => Test::In(values),
                "NotIn" if !values.is_empty() => Test::NotIn(values),
                "In" | "NotIn" => {
                    return Err(SelectorError("for 'in', 'notin' operators, values set can't be empty".into()));
                }
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Missing,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            found.push(Requirement { key: text("key").to_owned(), test });
        }
        Ok(Self(found))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels.get(&requirement.key).map(String::as_str)))
    }

    /// Whether an object's `metadata.labels` satisfy every requirement.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.0.iter().all(|requirement| {
            requirement.holds(labels.and_then(|labels| labels.get(&requirement.key)).and_then(Value::as_str))
        })
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0);
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Result<Requirement, SelectorError> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let (key, test) = if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Test::Missing)
    } else if let Some((head, list)) = part.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key, Test::In(values)),
            Some((key, "notin")) => (key, Test::NotIn(values)),
            _ => return Err(SelectorError(format!("unable to parse requirement: {part:?}: expected `in` or `notin`"))),
        }
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    names::qualified(key)
        .map_err(|rule| SelectorError(format!("unable to parse requirement: key {key:?} is not valid: {rule}")))?;
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            names::label_value(value).map_err(|rule| {
                SelectorError(format!("unable to parse requirement: value {value:?} is not valid: {rule}"))
            })?;
        }
    }
    Ok(Requirement { key: key.to_owned(), test })
}

/// One requirement on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: Vec<String>,
    equals: bool,
    value: String,
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

impl FieldSelector {
    /// Parses `status.phase!=Failed,spec.nodeName=a` for a kind; a field that can not be selected by is refused.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, SelectorError> {
        let mut found = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (field, equals, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                return Err(SelectorError(format!("invalid selector: {part:?}; can't understand it")));
            };
            if !selectable(kind).contains(&field) && !["metadata.name", "metadata.namespace"].contains(&field) {
                return Err(SelectorError(format!("field label not supported: {field}")));
            }
            let path = field.split('.').map(str::to_owned).collect();
            found.push(FieldRequirement { path, equals, value: value.to_owned() });
        }
        Ok(Self(found))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that every selected object has, when the selector fixes it.
    pub fn name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|requirement| requirement.equals && requirement.path == ["metadata", "name"])
            .map(|requirement| requirement.value.as_str())
    }

    /// Whether an object satisfies every requirement. An absent field is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let found = requirement.path.iter().try_fold(object, |value, name| value.get(name));
            let equal = match found {
                None | Some(Value::Null) => requirement.value.is_empty(),
                Some(Value::String(text)) => *text == requirement.value,
                Some(Value::Bool(flag)) => flag.to_string() == requirement.value,
                Some(Value::Number(number)) => number.to_string() == requirement.value,
                Some(_) => false,
            };
            equal == requirement.equals
        })
    }
}

/// Fields besides name and namespace that objects of a kind can be selected by.
pub fn selectable(kind: &Kind) -> &'static [&'static str] {
    match kind.kind {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "Secret" => &["type"],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "Node" => &["spec.unschedulable"],
        "Namespace" => &["status.phase"],
        "ReplicaSet" => &["status.replicas"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kind;
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors_select() {
        let web = labels(&[("app", "web"), ("tier", "a")]);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app!=web", false),
            ("other!=web", true),
            ("tier in (a, b)", true),
            ("tier notin (a,b),app=web", false),
            ("app", true),
            ("!app", false),
            ("!other", true),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&web), expected, "{text}");
        }
        for bad in ["a b", "app in web", "=x", "app=a b", "app within (a)"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selectors_of_objects() {
        let selector = LabelSelector::from_json(&json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}, {"key": "old", "operator": "DoesNotExist"}]}))
        .unwrap();
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "a")])));
        assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "a"), ("old", "")])));
        assert!(!selector.matches_object(&json!({"metadata": {}})));
        assert!(LabelSelector::from_json(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).is_err());
    }

    #[test]
    fn field_selectors_select() {
        let pod = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"hostNetwork": true}, "status": {"phase": "Running"}});
        for (text, expected) in [
            ("metadata.name=a", true),
            ("metadata.name=a,status.phase!=Failed", true),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("spec.hostNetwork=true", true),
            ("status.phase=Failed", false),
        ] {
            assert_eq!(FieldSelector::parse(&kind::POD, text).unwrap().matches(&pod), expected, "{text}");
        }
        let counted = FieldSelector::parse(&kind::REPLICA_SET, "status.replicas=3").unwrap();
        assert!(counted.matches(&json!({"status": {"replicas": 3}})) && !counted.matches(&json!({})));
        assert!(FieldSelector::parse(&kind::POD, "spec.color=red").is_err());
        assert!(FieldSelector::parse(&kind::DEPLOYMENT, "spec.nodeName=a").is_err());
    }
}

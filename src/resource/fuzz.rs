//! For fuzzers: texts with a grammar. What is accepted is written and read again to the same value.

use super::selector::{FieldSelector, LabelSelector};
use super::{Quantity, kind, names};

pub(crate) fn word(text: &str) {
    if let Ok(quantity) = text.parse::<Quantity>() {
        let written = quantity.to_string();
        assert_eq!(written.parse::<Quantity>().ok(), Some(quantity), "{text:?} -> {written:?}");
        let (_, _) = (quantity.millis(), quantity.units());
    }
    if let Ok(selector) = LabelSelector::parse(text) {
        let _ = selector.matches(&[("app".to_owned(), "web".to_owned())].into());
    }
    for kind in kind::all() {
        if let Ok(fields) = FieldSelector::parse(kind, text) {
            let _ = fields.matches(&serde_json::json!({"metadata": {"name": text}}));
        }
    }
    for check in [names::dns_label, names::dns_subdomain, names::port_name, names::qualified, names::label_value] {
        let _ = check(text);
    }
    let _ = (names::env_name(text), names::config_key(text));
    let generated = names::generated(text, "abcde");
    assert!(!generated.is_empty());
    let _ = kind::find(text);
}

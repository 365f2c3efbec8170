//! Prints the field table as `docs/compatibility.md`.

use std::fmt::Write as _;

use super::{Field, Form, METADATA, Stance, of, pod};
use crate::resource::kind;

/// The text of `docs/compatibility.md`.
pub fn compatibility() -> String {
    let mut text = String::from(
        "# What of Kubernetes is honoured\n\n\
         This page is printed from the field table in `src/resource/fields/`. After a change of the table run\n\
         `KITH_WRITE_DOCS=1 cargo nextest run compatibility_page`.\n\n\
         A field is **honoured** (it means what it means in Kubernetes), **warned** about (it is kept, does nothing, \
         and the writer gets a `Warning` header), or **refused** (an object that sets it is not accepted). A field \
         that is not listed does not exist: it is dropped with a warning, or refused with \
         `fieldValidation=Strict`. A field that holds nothing (`false`, `[]`, `\"\"`) is never a reason to complain.\n",
    );
    text.push_str("\n## Metadata of every kind\n\n");
    rows(&mut text, "metadata", &METADATA);
    for kind in kind::all() {
        let _ = write!(text, "\n## {} ({})\n\n", kind.kind, kind.api_version());
        let names = [&[kind.plural, kind.singular], kind.short].concat().join(", ");
        let _ = writeln!(text, "Names: {names}. Verbs: {}.", kind.verbs.join(", "));
        if !kind.subresources.is_empty() {
            let _ = writeln!(text, "Subresources: {}.", kind.subresources.join(", "));
        }
        text.push('\n');
        rows(&mut text, "", of(kind));
    }
    text
}

fn rows(text: &mut String, prefix: &str, fields: &'static [Field]) {
    text.push_str("| field | | why |\n| --- | --- | --- |\n");
    walk(text, prefix, fields);
}

fn walk(text: &mut String, prefix: &str, fields: &'static [Field]) {
    for field in fields {
        if ["apiVersion", "kind", "metadata"].contains(&field.name) && prefix.is_empty() {
            continue;
        }
        let dot = if prefix.is_empty() { "" } else { "." };
        let path = format!("{prefix}{dot}{}", field.name);
        match field.form {
            Form::Object(inner) if std::ptr::eq(inner, &raw const pod::TEMPLATE as *const [Field]) => {
                let _ = writeln!(text, "| `{path}` | honoured | metadata and spec as of a Pod |");
            }
            Form::Object(inner) | Form::Amounts(inner) => walk(text, &path, inner),
            Form::Objects(inner) => walk(text, &format!("{path}[]"), inner),
            _ => row(text, &path, field.stance),
        }
    }
}

fn row(text: &mut String, path: &str, stance: Stance) {
    let (word, why) = match stance {
        Stance::Honoured => ("honoured", String::new()),
        Stance::Warned(why) | Stance::WarnedUnless([], why) => ("warned", why.to_owned()),
        Stance::Refused(why) | Stance::RefusedUnless([], why) => ("refused", why.to_owned()),
        Stance::WarnedUnless(fine, why) => ("honoured", format!("{}; else warned: {why}", list(fine))),
        Stance::RefusedUnless(fine, why) => ("honoured", format!("{}; else refused: {why}", list(fine))),
    };
    let _ = writeln!(text, "| `{path}` | {word} | {why} |");
}

fn list(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

//! Manifests: one text, several YAML (or JSON) documents. It turns text into objects with an
//! `apiVersion` and a `kind`, within limits, or says where the text is wrong; it never judges fields.

use serde_json::Value;

/// The most bytes that a manifest may have: 3 MiB, as the API takes.
pub const SIZE_LIMIT: usize = 3 << 20;
/// The most nested levels of a document.
pub const DEPTH_LIMIT: usize = 64;
/// The most aliases (`*name`) of a manifest: each repeats what its anchor holds.
pub const ALIAS_LIMIT: usize = 1000;
/// The most documents of a manifest.
pub const DOCUMENT_LIMIT: usize = 1000;
/// The most values and keys of a manifest, aliases unfolded.
pub const NODE_LIMIT: usize = 200_000;

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML, or past a limit.
    #[error("parse {file}, line {line}, column {column}: {reason}")]
    Syntax {
        /// The file as the user named it.
        file: String,
        /// Counted from 1; 0 when unknown.
        line: u64,
        /// Counted from 1; 0 when unknown.
        column: u64,
        /// What is wrong.
        reason: String,
    },
    /// A document is not an object of the API.
    #[error("parse {file}, document {number}: {reason}")]
    Document {
        /// The file as the user named it.
        file: String,
        /// Counted from 1, empty documents left out.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// Too large to look at.
    #[error("parse {file}: it has {size} bytes, more than the {SIZE_LIMIT} that a manifest may have")]
    TooLarge {
        /// The file as the user named it.
        file: String,
        /// Its bytes.
        size: usize,
    },
}

/// Parses every document of a manifest; a `List` becomes its items. Empty documents are left out.
pub fn parse(text: &str, file: &str) -> Result<Vec<Value>, ManifestError> {
    let documents = values(text, file)?;
    let mut objects = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        let wrong = |reason: &str| ManifestError::Document {
            file: file.to_owned(),
            number: index + 1,
            reason: reason.to_owned(),
        };
        flatten(document, 0, &mut objects).map_err(|reason| wrong(&reason))?;
    }
    Ok(objects)
}

/// Parses one value that need not be an object of the API, such as a patch.
pub fn value(text: &str, file: &str) -> Result<Value, ManifestError> {
    let mut found = values(text, file)?;
    match (found.pop(), found.is_empty()) {
        (Some(value), true) => Ok(value),
        (None, _) => Err(ManifestError::Document { file: file.to_owned(), number: 1, reason: "it is empty".into() }),
        (Some(_), false) => Err(ManifestError::Document {
            file: file.to_owned(),
            number: 2,
            reason: "one document was expected, and more follow".into(),
        }),
    }
}

fn values(text: &str, file: &str) -> Result<Vec<Value>, ManifestError> {
    if text.len() > SIZE_LIMIT {
        return Err(ManifestError::TooLarge { file: file.to_owned(), size: text.len() });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_LIMIT,
            max_aliases: ALIAS_LIMIT,
            max_documents: DOCUMENT_LIMIT,
            max_nodes: NODE_LIMIT,
        },
        with_snippet: false,
        legacy_octal_numbers: true,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| syntax(&error, file))
}

fn syntax(error: &serde_saphyr::Error, file: &str) -> ManifestError {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let text = error.without_snippet().to_string();
    // The message repeats the place as a prefix or a suffix; ours names it once.
    let place = format!(" at line {line}, column {column}");
    let reason = text.lines().next().unwrap_or("it is not YAML").replace(&place, "");
    let reason = reason.trim_start_matches("error: ").trim_start_matches(&format!("line {line} column {column}: "));
    ManifestError::Syntax { file: file.to_owned(), line, column, reason: reason.to_owned() }
}

fn flatten(document: Value, depth: usize, objects: &mut Vec<Value>) -> Result<(), String> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if !document.is_object() {
        return Err("it is not an object with apiVersion and kind".into());
    }
    if text("apiVersion").is_none() {
        return Err("apiVersion is not set".into());
    }
    let Some(kind) = text("kind") else { return Err("kind is not set".into()) };
    if kind != "List" {
        objects.push(document);
        return Ok(());
    }
    if depth > 0 {
        return Err("a List holds another List".into());
    }
    let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    items.into_iter().try_for_each(|item| flatten(item, depth + 1, objects))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn several_documents_and_lists() {
        let text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Pod, metadata: {name: b}}\n";
        let objects = parse(text, "x.yaml").unwrap();
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Namespace", "Pod"]);
        assert_eq!(parse(r#"{"apiVersion":"v1","kind":"Pod"}"#, "x.json").unwrap().len(), 1);
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_column() {
        let error = parse("apiVersion: v1\nkind: Pod\nspec:\n  a: [1, 2\n  b: 3\n", "x.yaml").unwrap_err();
        let ManifestError::Syntax { line, column, .. } = &error else { panic!("{error}") };
        assert!(*line >= 4 && *column >= 1, "{error}");
        let error = parse("apiVersion: v1\nkind: Pod\nkind: Node\n", "x.yaml").unwrap_err();
        assert!(error.to_string().contains("line 3") && error.to_string().contains("kind"), "{error}");
        let error = parse("apiVersion: v1\n---\nkind: Pod\n", "x.yaml").unwrap_err();
        assert_eq!(error.to_string(), "parse x.yaml, document 1: kind is not set");
        assert!(parse("just words", "x.yaml").is_err());
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = String::from("apiVersion: v1\nkind: Pod\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let parts = vec![format!("*a{}", level - 1); 10].join(", ");
            let _ = writeln!(text, "a{level}: &a{level} [{parts}]");
        }
        assert!(matches!(parse(&text, "bomb.yaml"), Err(ManifestError::Syntax { .. })));
        let deep = format!("apiVersion: v1\nkind: Pod\na: {}{}\n", "[".repeat(500), "]".repeat(500));
        assert!(parse(&deep, "deep.yaml").is_err());
        assert!(matches!(parse(&" ".repeat(SIZE_LIMIT + 1), "big.yaml"), Err(ManifestError::TooLarge { .. })));
    }

    #[test]
    fn numbers_and_words_keep_their_types() {
        let object = &parse(
            "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: \"1\"\n  b: 1\n  c: 1e3\n  d: yes\n  e: 0o17\n  f: ~\n  g: 0400\n  h: \"0400\"\n",
            "x",
        )
        .unwrap()[0];
        assert_eq!(object["data"]["a"], "1");
        assert_eq!(object["data"]["b"], 1);
        assert!(object["data"]["f"].is_null());
        // Permissions are written like this, and Kubernetes reads them so.
        assert_eq!((&object["data"]["g"], &object["data"]["h"]), (&serde_json::json!(256), &serde_json::json!("0400")));
    }
}

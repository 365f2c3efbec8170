//! `$(NAME)` in commands, arguments and values, as Kubernetes expands it: `$$` is a `$`, and a
//! reference to what is not defined stays as it is.

use std::collections::BTreeMap;

pub(super) fn expand(text: &str, defined: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            if let Some(value) = defined.get(name) {
                out.push_str(value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_kubernetes() {
        let defined = [("A", "1"), ("B", "$(A)")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$$$(A)", "$1"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &defined), expected, "{text}");
        }
    }
}

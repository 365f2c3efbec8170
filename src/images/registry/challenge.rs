//! `WWW-Authenticate`: what a registry wants to see before it answers. Pure.

/// How to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::images) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where tokens are handed out.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// What the token must allow; the registry may leave it to the client.
        scope: Option<String>,
    },
}

/// Longest header that is read, in bytes.
const HEADER_MAX: usize = 4096;

impl Challenge {
    /// The challenges of a header's value, in order; schemes that are not known are passed over.
    pub(in crate::images) fn parse(header: &str) -> Vec<Self> {
        let mut found = Vec::new();
        if header.len() > HEADER_MAX {
            return found;
        }
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let end = rest.find(|letter: char| letter.is_whitespace() || letter == ',').unwrap_or(rest.len());
            let (scheme, after) = rest.split_at(end);
            let (parameters, after) = parameters(after);
            let value = |key: &str| {
                parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                found.push(Self::Basic);
            } else if let Some(realm) = value("realm").filter(|_| scheme.eq_ignore_ascii_case("bearer")) {
                found.push(Self::Bearer { realm, service: value("service"), scope: value("scope") });
            }
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
        found
    }
}

/// `name=value` pairs up to the next scheme, and what follows them.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches([' ', '\t', ',']);
        let name_end = start.find(|letter: char| !is_token(letter)).unwrap_or(start.len());
        let (name, after) = start.split_at(name_end);
        let Some(value) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else {
            // The next scheme, or nothing that makes sense.
            return (found, if name.is_empty() { "" } else { start });
        };
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        found.push((name.to_owned(), value));
        rest = after;
    }
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

/// A quoted string without its quotes, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (header, expected) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                vec![bearer("https://a/t", Some("s"), Some("repository:a/b:pull,push"))],
            ),
            ("bearer realm=https://a/t, service = s", vec![bearer("https://a/t", Some("s"), None)]),
            ("Basic, Bearer realm=\"t\"", vec![Challenge::Basic, bearer("t", None, None)]),
            ("Negotiate, Basic realm=\"a \\\"b\\\"\"", vec![Challenge::Basic]),
            ("Bearer service=\"s\"", vec![]),
            ("Bearer realm=\"open", vec![bearer("open", None, None)]),
            ("", vec![]),
            ("=,=,\"", vec![]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}

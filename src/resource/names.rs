//! What names, labels and annotations may look like. Messages follow Kubernetes.

/// The most characters of a DNS-1123 label.
pub const LABEL_LIMIT: usize = 63;
/// The most characters of a DNS-1123 subdomain.
pub const SUBDOMAIN_LIMIT: usize = 253;
/// The most bytes that all annotations of one object may have together: 256 KiB.
pub const ANNOTATIONS_LIMIT: usize = 256 << 10;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
     regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
     regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
     end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// A DNS-1123 label: names of containers and namespaces.
pub fn dns_label(name: &str) -> Result<(), String> {
    if name.len() > LABEL_LIMIT {
        return Err(format!("must be no more than {LABEL_LIMIT} characters"));
    }
    if is_label(name) { Ok(()) } else { Err(LABEL_RULE.to_owned()) }
}

/// A DNS-1123 subdomain: names of most objects.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() > SUBDOMAIN_LIMIT {
        return Err(format!("must be no more than {SUBDOMAIN_LIMIT} characters"));
    }
    if name.split('.').all(is_label) { Ok(()) } else { Err(SUBDOMAIN_RULE.to_owned()) }
}

/// A port's name: at most 15 characters, at least one letter, no two dashes in a row.
pub fn port_name(name: &str) -> Result<(), String> {
    if name.len() > 15 {
        return Err("must be no more than 15 characters".into());
    }
    if !is_label(name) {
        return Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") { Err("must not contain consecutive hyphens".into()) } else { Ok(()) }
}

fn is_qualified_part(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A qualified name: keys of labels and annotations, `name` or `example.com/name`.
pub fn qualified(name: &str) -> Result<(), String> {
    let part = match name.split_once('/') {
        None => name,
        Some((prefix, part)) => {
            dns_subdomain(prefix).map_err(|rule| format!("prefix part {rule}"))?;
            part
        }
    };
    if part.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if part.len() > LABEL_LIMIT {
        return Err(format!("name part must be no more than {LABEL_LIMIT} characters"));
    }
    if is_qualified_part(part) { Ok(()) } else { Err(QUALIFIED_RULE.to_owned()) }
}

/// A label's value.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > LABEL_LIMIT {
        return Err(format!("must be no more than {LABEL_LIMIT} characters"));
    }
    if value.is_empty() || is_qualified_part(value) { Ok(()) } else { Err(VALUE_RULE.to_owned()) }
}

/// A variable's name: printable ASCII without `=`.
pub fn env_name(name: &str) -> Result<(), String> {
    let fine = !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if fine {
        Ok(())
    } else {
        Err("a valid environment variable name must consist only of printable ASCII characters other than '='".into())
    }
}

/// A key of a config map.
pub fn config_key(key: &str) -> Result<(), String> {
    let characters = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if key.is_empty() || key.len() > SUBDOMAIN_LIMIT || !characters || key == "." || key.starts_with("..") {
        return Err("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', \
                    or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            .into());
    }
    Ok(())
}

/// The base of a generated name, cut so that a suffix of `suffix` characters fits.
pub fn generated(base: &str, suffix: &str) -> String {
    let room = LABEL_LIMIT.saturating_sub(suffix.len());
    let mut end = base.len().min(room);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// A suffix of five characters for a generated name, drawn from `random`. No vowels: no words.
pub fn suffix(random: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = random;
    let mut drawn = String::with_capacity(5);
    for _ in 0..5 {
        let index = usize::try_from(rest % 27).unwrap_or(0);
        drawn.push(char::from(ALPHABET[index]));
        rest /= 27;
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_to_the_letter() {
        for good in ["a", "web-1", "0", "a.b.c"] {
            assert!(dns_subdomain(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a/b", "ü", &"a".repeat(254)] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
        assert!(dns_label("a.b").is_err());
        assert!(dns_label(&"a".repeat(63)).is_ok() && dns_label(&"a".repeat(64)).is_err());
        assert!(qualified("kith.dev/on-partition").is_ok() && qualified("app").is_ok());
        assert!(qualified("/x").is_err() && qualified("a/").is_err() && qualified("a/b/c").is_err());
        assert!(label_value("").is_ok() && label_value("a b").is_err());
        assert!(port_name("http").is_ok() && port_name("80").is_err() && port_name("a--b").is_err());
        assert!(config_key("a.b").is_ok() && config_key("../x").is_err() && config_key(".").is_err());
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generated("web-", "abcde"), "web-abcde");
        assert_eq!(generated(&"x".repeat(100), "abcde").len(), 63);
        assert_eq!(suffix(0), "bbbbb");
        assert_ne!(suffix(12_345), suffix(54_321));
    }
}

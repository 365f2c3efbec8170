//! What is wrong with settings, told so that it can be mended: where it stands, what was found, what
//! is taken instead.

use std::fmt;

use serde::de::{self, DeserializeOwned, Visitor};

/// The reference of all settings, which says of each what it takes.
const REFERENCE: &str = include_str!("../../configs/agent.toml");

/// Names that differ by more letters are not meant.
const NEAR: usize = 3;

/// Suffixes that people write behind bytes, with what they stand for.
const SIZES: [(&str, u64); 4] = [("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("t", 1 << 40)];

/// Suffixes behind a time, in seconds.
const SPANS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands: `agent.toml:7`, `KITH_NAME`, `--set`; empty when nobody knows.
    pub place: String,
    /// What is wrong, beginning with the key where there is one.
    pub what: String,
    /// What to do instead.
    pub hint: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)?;
        self.hint.lines().try_for_each(|line| write!(f, "\n      {line}"))
    }
}

/// All of them, one below the other.
pub(super) fn listed(mistakes: &[Mistake]) -> String {
    let one = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
    let lines: Vec<String> = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
    format!("{} {one} in the settings{}", mistakes.len(), lines.concat())
}

/// That a key is not known, and which one may be meant.
pub(super) fn unknown(place: String, key: &str, name: &str, known: &[&str]) -> Mistake {
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean {near}?"),
        None if known.len() <= 12 => format!("known here are {}", known.join(", ")),
        None => "configs/agent.toml shows every setting with its default".into(),
    };
    Mistake { place, what: format!("{key} is not a setting"), hint }
}

/// The name that may be meant.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
    let near = known.iter().map(|known| (distance(known), *known)).min()?;
    (near.0 <= NEAR && near.0 * 2 <= name.chars().count().max(2)).then_some(near.1)
}

/// That a value is not what its key takes; `message` is what serde says of it.
pub(super) fn wrong_value(place: String, key: &str, value: &toml::Value, message: &str) -> Mistake {
    let message = message.lines().next().unwrap_or_default();
    let variants = message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "));
    let (what, guess) = if let Some((_, known)) = variants {
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        let given = value.as_str().unwrap_or_default();
        let near = nearest(given, &known).map(|near| format!("did you mean {near:?}?"));
        (format!("{key} is {value}, but must be {}", either(&known)), near)
    } else if let Some(field) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        (format!("{key} has {field}, which is not a setting"), None)
    } else {
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
        let takes = expected.and_then(takes).or_else(|| message.contains("socket address").then_some("ADDRESS:PORT"));
        match takes {
            Some(takes) => (format!("{key} is {value}, but takes {takes}"), number_meant(key, value, takes)),
            // A type of our own, which says what it wants.
            None => (format!("{key} is {value}: {message}"), None),
        }
    };
    let hints: Vec<String> = guess.into_iter().chain(reference(key)).collect();
    Mistake { place, what, hint: hints.join("\n") }
}

/// What stands behind one of serde's words for a type.
fn takes(expected: &str) -> Option<&'static str> {
    Some(match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a sequence" => "a list: [\"one\", \"two\"]",
        "socket address" | "an IPv4 socket address or an IPv6 socket address" => "ADDRESS:PORT",
        text if text.ends_with("string") => "text in quotes",
        table if table == "a map" || table.starts_with("struct ") => "a table",
        _ => return None,
    })
}

/// The number that somebody meant who wrote `"10 MiB"` or `"5m"`.
fn number_meant(key: &str, value: &toml::Value, takes: &str) -> Option<String> {
    let text = value.as_str().filter(|_| takes.starts_with("a whole number"))?.trim().to_lowercase();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = (text[..digits].parse::<u64>().ok()?, text[digits..].trim());
    let suffixes = if key.ends_with("seconds") { SPANS } else { SIZES };
    let suffix = if key.ends_with("seconds") { suffix } else { suffix.trim_end_matches("ib").trim_end_matches('i') };
    let factor = if suffix.is_empty() { 1 } else { suffixes.iter().find(|(known, _)| *known == suffix)?.1 };
    Some(format!("write {key} = {}", number.checked_mul(factor)?))
}

/// `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// What the reference says of a key.
pub(super) fn reference(key: &str) -> Option<String> {
    let (mut section, mut said, mut open) = (String::new(), Vec::new(), false);
    for line in REFERENCE.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            if !open {
                said.clear();
            }
            open = true;
            said.push(comment.strip_prefix(' ').unwrap_or(comment));
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            open = false;
        } else if let Some((name, _)) = line.split_once(" = ") {
            if format!("{section}{name}") == key {
                return (!said.is_empty()).then(|| said.join("\n"));
            }
            open = false;
        } else {
            said.clear();
            open = false;
        }
    }
    None
}

/// The keys of a struct, as its file has them.
pub(super) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);
    impl<'de> de::Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the names are wanted"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut found: &'static [&'static str] = &[];
    // It always fails, once the names are told.
    drop(T::deserialize(Names(&mut found)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DeviceRule};

    #[test]
    fn names_come_from_the_types() {
        assert!(keys_of::<Config>().contains(&"pids_limit"));
        assert!(keys_of::<DeviceRule>().contains(&"access"), "options have names too");
    }

    #[test]
    fn the_reference_says_what_every_setting_takes() {
        assert!(reference("log_max_bytes").unwrap().contains("At least 4096"));
        assert!(reference("security.allow_privileged").unwrap().contains("all powers"));
        let table = toml::Table::try_from(Config::default()).unwrap();
        for (key, value) in &table {
            let keys: Vec<String> = match value {
                toml::Value::Table(section) => section.keys().map(|name| format!("{key}.{name}")).collect(),
                _ => vec![key.clone()],
            };
            for key in keys {
                assert!(reference(&key).is_some(), "configs/agent.toml says nothing of {key}");
            }
        }
    }

    #[test]
    fn what_is_meant_is_guessed() {
        assert_eq!(nearest("nmae", &["name", "data_dir"]), Some("name"));
        assert_eq!(nearest("frobnicate", &["name", "data_dir"]), None);
        let said = |key: &str, text: &str| {
            wrong_value(String::new(), key, &toml::Value::String(text.into()), "invalid type: string, expected u64")
                .hint
        };
        assert!(said("log_max_bytes", "10 MiB").contains("write log_max_bytes = 10485760"));
        assert!(said("lost_after_seconds", "5m").contains("write lost_after_seconds = 300"));
    }
}

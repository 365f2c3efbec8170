//! How the settings of one agent come together: defaults, profiles of the device, the file, the
//! environment, flags; each counts before those in front of it. All of it is checked before the first
//! mistake is told, and of each value it is known where it came from.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::mistakes::{Mistake, keys_of, nearest, unknown, wrong_value};
use super::{Config, ConfigError, DeviceProfile, DeviceRule, RegistryConfig};

/// Variables that begin as settings do and are none.
const OTHER_VARIABLES: [&str; 3] = ["KITH_CONFIG", "KITH_SOCKET", "KITH_LOG"];

/// What all variables of Kith begin with.
const PREFIX: &str = "KITH_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A profile of the device.
    Profile(DeviceProfile),
    /// A line of the file.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(profile) => write!(f, "profile {}", profile.name()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// One value that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its key: `images.pulls_at_once`.
    pub key: String,
    /// Its value, as the file would have it.
    pub value: String,
    /// Where it came from: `default`, `profile tiny`, `/etc/kith/agent.toml:12`, `KITH_NAME`, `--set`.
    pub origin: String,
}

/// The settings that count, and where each came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The settings.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

/// Everything that settings come from.
#[derive(Clone, Debug, Default)]
pub struct Layers<'a> {
    /// The file and its text.
    pub file: Option<(&'a Path, &'a str)>,
    /// Variables with their values.
    pub environment: Vec<(String, String)>,
    /// Whether a variable that looks like a setting and is none is a mistake.
    pub strict: bool,
    /// `KEY=VALUE`, as the file would have it.
    pub flags: &'a [String],
}

/// A value that somebody gave.
struct Entry {
    path: Vec<String>,
    value: Value,
    origin: Origin,
    /// Where the parts of a table came from.
    parts: Vec<(Vec<String>, Origin)>,
}

impl Entry {
    fn new(path: Vec<String>, value: Value, origin: Origin) -> Self {
        Self { path, value, origin, parts: Vec::new() }
    }
}

/// What keys there are below a place.
enum Shape {
    /// These and no others.
    Keys(BTreeSet<String>),
    /// Any names, each with such a table.
    Tables(&'static [&'static str]),
    /// A list of such tables.
    List(&'static [&'static str]),
    /// A value as a whole.
    Value,
}

impl<'a> Layers<'a> {
    /// A file alone.
    pub fn of_file(path: &'a Path, text: &'a str) -> Self {
        Self { file: Some((path, text)), ..Self::default() }
    }

    /// The settings, or all mistakes.
    pub fn settle(self) -> Result<Settled, ConfigError> {
        let mut reader = Reader::new();
        if let Some((path, text)) = self.file {
            file::read(&mut reader, path, text);
        }
        reader.read_environment(&self.environment, self.strict);
        reader.read_flags(self.flags);
        reader.settle()
    }
}

struct Reader {
    defaults: Table,
    entries: Vec<Entry>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn new() -> Self {
        let defaults = Table::try_from(Config::default()).unwrap_or_default();
        Self { defaults, entries: Vec::new(), mistakes: Vec::new() }
    }

    /// What may stand below a path.
    fn shape(&self, path: &[String]) -> Shape {
        match path {
            [] => Shape::Keys(keys_of::<Config>().iter().map(ToString::to_string).collect()),
            [name] => match (name.as_str(), self.defaults.get(name)) {
                ("registries", _) => Shape::Tables(keys_of::<RegistryConfig>()),
                ("devices", _) => Shape::List(keys_of::<DeviceRule>()),
                (_, Some(Value::Table(section))) if !section.is_empty() => {
                    Shape::Keys(section.keys().cloned().collect())
                }
                _ => Shape::Value,
            },
            _ => Shape::Value,
        }
    }

    /// Every key that has a value of its own.
    fn keys(&self) -> Vec<Vec<String>> {
        let Shape::Keys(names) = self.shape(&[]) else { return Vec::new() };
        let below = |name: String| match self.shape(std::slice::from_ref(&name)) {
            Shape::Keys(keys) => keys.into_iter().map(|key| vec![name.clone(), key]).collect(),
            _ => vec![vec![name]],
        };
        names.into_iter().flat_map(below).collect()
    }

    fn read_environment(&mut self, variables: &[(String, String)], strict: bool) {
        let known: BTreeMap<String, Vec<String>> =
            self.keys().into_iter().map(|path| (variable(&path), path)).collect();
        for (name, text) in variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            if let Some(path) = known.get(name) {
                let origin = Origin::Environment(name.clone());
                let candidates = candidates(text);
                self.first_good(path, candidates, origin);
            } else if strict && !OTHER_VARIABLES.contains(&name.as_str()) {
                let names: Vec<&str> = known.keys().map(String::as_str).chain(OTHER_VARIABLES).collect();
                let hint = match nearest(name, &names) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "a setting is KITH_KEY or KITH_SECTION_KEY: KITH_IMAGES_PULLS_AT_ONCE".into(),
                };
                self.mistakes.push(Mistake { place: name.clone(), what: "no setting has this name".into(), hint });
            }
        }
    }

    fn read_flags(&mut self, flags: &[String]) {
        for flag in flags {
            let place = || format!("--set {flag}");
            let Some((key, text)) = flag.split_once('=') else {
                let hint = "write --set KEY=VALUE, such as --set images.pulls_at_once=1".into();
                self.mistakes.push(Mistake { place: place(), what: "there is no = in it".into(), hint });
                continue;
            };
            let path: Vec<String> = match key.trim().split_once('.') {
                Some((section, name)) => vec![section.to_owned(), name.trim_matches('"').to_owned()],
                None => vec![key.trim().to_owned()],
            };
            let keys = self.keys();
            // A table of any names takes one of them too: labels.zone=barn.
            let inside = path.len() == 2 && keys.contains(&path[..1].to_vec());
            if keys.contains(&path) || (inside && matches!(self.defaults.get(&path[0]), Some(Value::Table(_)))) {
                self.first_good(&path, candidates(text.trim()), Origin::Flag);
            } else {
                let names: Vec<String> = keys.iter().map(|path| dotted(path)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.mistakes.push(unknown(place(), key.trim(), key.trim(), &names));
            }
        }
    }

    /// Takes the first reading of a text that its key takes.
    fn first_good(&mut self, path: &[String], candidates: Vec<Value>, origin: Origin) {
        let mut wrong = None;
        for value in candidates {
            match try_alone(path, None, value.clone()) {
                Ok(()) => {
                    self.entries.push(Entry::new(path.to_vec(), value, origin));
                    return;
                }
                Err(message) => wrong = wrong.or(Some((value, message))),
            }
        }
        if let Some((value, message)) = wrong {
            self.mistakes.push(wrong_value(origin.to_string(), &dotted(path), &value, &message));
        }
    }

    fn settle(mut self) -> Result<Settled, ConfigError> {
        let mut origins = BTreeMap::new();
        let mut merged = std::mem::take(&mut self.defaults);
        let profiles = self.entries.iter().rfind(|entry| entry.path == ["device_profiles"]);
        let profiles = profiles.and_then(|entry| entry.value.clone().try_into::<Vec<DeviceProfile>>().ok());
        for profile in profiles.unwrap_or_default() {
            for (key, value) in profile.overrides() {
                let path: Vec<String> = key.split('.').map(str::to_owned).collect();
                put(&mut merged, &mut origins, Entry::new(path, (*value).into(), Origin::Profile(profile)));
            }
        }
        for entry in self.entries {
            put(&mut merged, &mut origins, entry);
        }
        // What is wrong by itself is left out of this, so that the rest is looked at too.
        let config: Config = match merged.try_into() {
            Ok(config) => config,
            Err(error) => {
                let what = error.message().to_owned();
                self.mistakes.push(Mistake { place: String::new(), what, hint: String::new() });
                return Err(ConfigError::Invalid { mistakes: sorted(self.mistakes) });
            }
        };
        for what in config.mistakes() {
            let place = place_of(&what, &origins);
            self.mistakes.push(Mistake { place, what, hint: String::new() });
        }
        if self.mistakes.is_empty() {
            Ok(Settled { config, origins })
        } else {
            Err(ConfigError::Invalid { mistakes: sorted(self.mistakes) })
        }
    }
}

/// Those of a file first, line by line.
fn sorted(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    let line = |mistake: &Mistake| mistake.place.rsplit_once(':').and_then(|(_, line)| line.parse().ok());
    mistakes.sort_by_key(|mistake| line(mistake).unwrap_or(usize::MAX));
    mistakes
}

/// Whether the settings would take this value if it were the only one; else what they say.
fn try_alone(path: &[String], item: Option<usize>, value: Value) -> Result<(), String> {
    let mut whole = value;
    for (depth, name) in path.iter().enumerate().rev() {
        whole = Value::Table(Table::from_iter([(name.clone(), whole)]));
        if item.is_some() && depth == 1 {
            whole = Value::Array(vec![whole]);
        }
    }
    whole.try_into::<Config>().map(drop).map_err(|error| error.message().to_owned())
}

/// What a text outside of a file may stand for, best first.
fn candidates(text: &str) -> Vec<Value> {
    let toml = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let list = parts().map(|part| Value::String(part.to_owned())).collect();
    let pairs: Option<Table> = parts()
        .map(|part| part.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().into())))
        .collect();
    let text = Value::String(text.to_owned());
    toml.into_iter().chain([text, Value::Array(list)]).chain(pairs.map(Value::Table)).collect()
}

/// Puts a value into its place.
fn put(merged: &mut Table, origins: &mut BTreeMap<String, Origin>, entry: Entry) {
    let key = dotted(&entry.path);
    let below = format!("{key}.");
    origins.retain(|known, _| !known.starts_with(&below));
    origins.insert(key, entry.origin);
    origins.extend(entry.parts.iter().map(|(path, origin)| (dotted(path), origin.clone())));
    let Some((last, parents)) = entry.path.split_last() else { return };
    let mut table = merged;
    for name in parents {
        let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { return };
        table = inner;
    }
    table.insert(last.clone(), entry.value);
}

/// The variable of a key.
pub(super) fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("_").to_uppercase())
}

/// A key as the file has it, in one line.
fn dotted(path: &[String]) -> String {
    let bare =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let names: Vec<String> =
        path.iter().map(|name| if bare(name) { name.clone() } else { format!("{name:?}") }).collect();
    names.join(".")
}

/// The same with the place in a list.
fn shown(path: &[String], item: Option<usize>) -> String {
    match item {
        Some(index) if path.len() > 1 => format!("{}[{index}].{}", dotted(&path[..1]), dotted(&path[1..])),
        _ => dotted(path),
    }
}

/// Where the key stands with which a mistake begins.
fn place_of(what: &str, origins: &BTreeMap<String, Origin>) -> String {
    let plain = |text: &str| text.replace('"', "");
    let mut key = plain(what.split_whitespace().next().unwrap_or_default());
    if let Some((list, _)) = key.split_once('[') {
        key = list.to_owned();
    }
    let known: BTreeMap<String, &Origin> = origins.iter().map(|(known, origin)| (plain(known), origin)).collect();
    loop {
        if let Some(origin) = known.get(&key) {
            return origin.to_string();
        }
        // A part of what was given as a whole.
        let Some((above, _)) = key.rsplit_once('.') else { return String::new() };
        key = above.to_owned();
    }
}

impl Settled {
    /// Where a key's value came from.
    fn origin(&self, key: &str) -> &Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin;
            }
            let Some((above, _)) = key.rsplit_once('.') else { return &Origin::Default };
            key = above;
        }
    }

    /// Every setting with its value and where that came from.
    pub fn list(&self) -> Vec<Setting> {
        let mut found = Vec::new();
        let table = Table::try_from(&self.config).unwrap_or_default();
        // Those of the top first, as in the file.
        let (sections, plain): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, value)| value.is_table());
        for (name, value) in plain.into_iter().chain(sections) {
            self.flatten(&mut vec![name], &value, &mut found);
        }
        found
    }

    fn flatten(&self, path: &mut Vec<String>, value: &Value, found: &mut Vec<Setting>) {
        match value {
            Value::Table(table) if !table.is_empty() => {
                for (name, value) in table {
                    path.push(name.clone());
                    self.flatten(path, value, found);
                    path.pop();
                }
            }
            value => {
                let key = dotted(path);
                let origin = self.origin(&key).to_string();
                found.push(Setting { key, value: value.to_string(), origin });
            }
        }
    }
}

#[cfg(test)]
mod tests;

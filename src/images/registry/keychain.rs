//! Who asks: credentials from pull secrets (`kubernetes.io/dockerconfigjson`) and from agent.toml.
//! They are never printed.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::images::ImageError;

/// Largest pull secret, in bytes: as large as a Secret may be.
const SECRET_MAX: usize = 1 << 20;

/// A user name with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
    /// A token that the token server takes in place of a password.
    pub(super) identity_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, ...)", self.username)
    }
}

/// Credentials by registry, as pull secrets hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keychain {
    /// By `HOST[:PORT][/PATH]`, without scheme; in the order in which they were added.
    entries: Vec<(String, Credentials)>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, alias = "identitytoken")]
    identity_token: String,
}

impl Keychain {
    /// Adds what one pull secret holds: the bytes of its `.dockerconfigjson`, or of the older
    /// `.dockercfg`, which is the inner table alone. `what` names it in errors.
    pub fn add_docker_config(&mut self, bytes: &[u8], what: &str) -> Result<(), ImageError> {
        let wrong = |reason: String| ImageError::damaged(what, reason);
        if bytes.len() > SECRET_MAX {
            return Err(wrong(format!("it is longer than {SECRET_MAX} bytes")));
        }
        // The parser's own words may quote the secret: only where it failed is told.
        let place = |error: &serde_json::Error| format!("not JSON as docker login writes it, line {}", error.line());
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| wrong(place(&error)))?;
        let auths = if value.get("auths").is_some() {
            serde_json::from_value::<File>(value).map(|file| file.auths)
        } else {
            serde_json::from_value(value)
        };
        for (key, entry) in auths.map_err(|error| wrong(place(&error)))? {
            let credentials = entry.read().map_err(|reason| wrong(format!("the entry {key:?} {reason}")))?;
            self.entries.push((bare(&key), credentials));
        }
        Ok(())
    }

    /// The credentials for a repository: those of the longest path that leads to it.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Option<&Credentials> {
        let wanted = format!("{registry}/{repository}");
        let leads = |key: &str| {
            key == registry || wanted == key || wanted.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'))
        };
        let fitting = self.entries.iter().filter(|(key, _)| leads(key));
        // The first of equals: a pod's secrets count in their order.
        fitting.reduce(|best, other| if other.0.len() > best.0.len() { other } else { best }).map(|(_, found)| found)
    }
}

impl Entry {
    fn read(self) -> Result<Credentials, &'static str> {
        let identity_token = Some(self.identity_token).filter(|token| !token.is_empty());
        if self.auth.is_empty() {
            return Ok(Credentials { username: self.username, password: self.password, identity_token });
        }
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| "has an auth that is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "has an auth that is not text")?;
        let (username, password) = text.split_once(':').ok_or("has an auth without a colon")?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Credentials { username: username.to_owned(), password, identity_token })
    }
}

/// A key as registries are named here: docker writes its own as `https://index.docker.io/v1/`.
fn bare(key: &str) -> String {
    let key = key.trim().trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let key = key.strip_prefix("index.").filter(|rest| *rest == crate::images::name::HUB).unwrap_or(key);
    key.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_wins_and_all_spellings_are_read() {
        let mut chain = Keychain::default();
        let auth = STANDARD.encode("bob:se:cret");
        let text = format!(
            r#"{{"auths": {{"https://reg:5000/v2/": {{"auth": "{auth}"}}, "reg:5000/team": {{"username": "t", "password": "p"}},
            "https://index.docker.io/v1/": {{"username": "hub", "password": "h"}}}}}}"#
        );
        chain.add_docker_config(text.as_bytes(), "secret default/pull").unwrap();
        chain.add_docker_config(br#"{"old:1": {"username": "o", "password": "p"}}"#, "old").unwrap();
        let user = |registry, repository| chain.find(registry, repository).map(|found| found.username.as_str());
        assert_eq!(user("reg:5000", "a/b"), Some("bob"));
        assert_eq!(chain.find("reg:5000", "x").unwrap().password, "se:cret");
        assert_eq!(user("reg:5000", "team/app"), Some("t"));
        assert_eq!(user("reg:5000", "teammate/app"), Some("bob"));
        assert_eq!(user("docker.io", "library/x"), Some("hub"));
        assert_eq!(user("old:1", "x"), Some("o"));
        assert_eq!(user("other", "x"), None);
        assert!(!format!("{chain:?}").contains("se:cret"));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_the_secret() {
        for text in
            ["{\"auths\": {\"a\": {\"auth\": \"hunter2\"}}}", "hunter2", "[\"hunter2\"]", "{\"auths\": \"hunter2\"}"]
        {
            let error = Keychain::default().add_docker_config(text.as_bytes(), "secret a/b").unwrap_err().to_string();
            assert!(error.contains("secret a/b") && !error.contains("hunter2"), "{error}");
        }
    }
}

//! The settings of images: registries by name, how much is pulled at once, and when what is not
//! needed any more is cleared away.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ProxyAddress;

/// More open at once than this, and a small device is busy with nothing else.
const AT_ONCE: std::ops::RangeInclusive<usize> = 1..=16;

/// How one registry is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Registries that are asked first, in order: `HOST[:PORT][/PATH]`. How one of them is reached is
    /// set under its own name.
    pub mirrors: Vec<String>,
    /// PEM file of authorities that may sign this registry's certificate, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// User name, for basic and token authentication.
    pub username: String,
    /// File with that user's password, in its first line.
    pub password_file: Option<PathBuf>,
    /// Speak plain HTTP: nothing hides the password, and a digest alone proves what was sent.
    pub insecure: bool,
}

/// `[images]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// Images that are pulled at once.
    pub pulls_at_once: usize,
    /// Layers of one image that are downloaded at once.
    pub layers_at_once: usize,
    /// Percent of the file system's room that is taken when clearing away begins; 0: it never does.
    pub clear_above_percent: u8,
    /// Percent at which it ends.
    pub clear_to_percent: u8,
    /// Bytes that images may take; 0: as many as the percents allow.
    pub max_bytes: u64,
    /// The proxy that registries are reached through: `http://[USER:PASSWORD@]HOST[:PORT]`. Empty: what
    /// the agent's environment says (`HTTPS_PROXY`, `HTTP_PROXY`).
    pub proxy: String,
    /// Registries that are reached without it: `HOST`, `.DOMAIN`, `ADDRESS/PREFIX`, `*`. Empty: what the
    /// environment says (`NO_PROXY`). This device itself is never reached through it.
    pub no_proxy: Vec<String>,
    /// Bytes a second at which this device gives layers of images to others of its fleet, and then asks
    /// them before a registry; 0: neither. Never with `profile = "metered"`.
    pub peer_bytes_per_second: u64,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            pulls_at_once: 3,
            layers_at_once: 3,
            clear_above_percent: 85,
            clear_to_percent: 80,
            max_bytes: 0,
            proxy: String::new(),
            no_proxy: Vec::new(),
            peer_bytes_per_second: 16 << 20,
        }
    }
}

impl RegistryConfig {
    pub(super) fn mistakes(&self, name: &str, found: &mut Vec<String>) {
        let at = |key: &str| format!("registries.{name:?}.{key}");
        if name.is_empty() || name.contains(['/', '@', ' ']) {
            found.push(format!("registries.{name:?} is no registry: name it HOST or HOST:PORT"));
        }
        for mirror in &self.mirrors {
            if mirror.is_empty() || mirror.contains([' ', '@', '?', '#']) || mirror.contains("://") {
                found.push(format!("{} has {mirror:?}, but a mirror is HOST[:PORT][/PATH]", at("mirrors")));
            }
        }
        for (key, file) in [("ca_file", &self.ca_file), ("password_file", &self.password_file)] {
            if let Some(file) = file.as_ref().filter(|file| !file.is_absolute()) {
                found.push(format!("{} is {}, but must be an absolute path", at(key), file.display()));
            }
        }
        if self.username.is_empty() != self.password_file.is_none() {
            found.push(format!("{} and password_file go together: set both or neither", at("username")));
        }
        if self.insecure && self.ca_file.is_some() {
            found.push(format!("{} speaks plain HTTP, where ca_file means nothing: set one of both", at("insecure")));
        }
    }
}

impl ImagesConfig {
    pub(super) fn mistakes(&self, found: &mut Vec<String>) {
        for (key, value) in [("pulls_at_once", self.pulls_at_once), ("layers_at_once", self.layers_at_once)] {
            if !AT_ONCE.contains(&value) {
                let (least, most) = (AT_ONCE.start(), AT_ONCE.end());
                found.push(format!("images.{key} is {value}, but must be from {least} to {most}"));
            }
        }
        if let Some(Err(why)) = (!self.proxy.is_empty()).then(|| self.proxy.parse::<ProxyAddress>()) {
            found.push(format!("images.proxy: {why}"));
        }
        let (above, to) = (self.clear_above_percent, self.clear_to_percent);
        if above > 100 {
            found.push(format!("images.clear_above_percent is {above}, but must be from 0 to 100"));
        } else if above > 0 && to > above {
            found.push(format!("images.clear_to_percent is {to}, but must not be over clear_above_percent, {above}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn mistakes_of_registries_are_named() {
        let text = "[images]\nlayers_at_once = 0\nproxy = \"https://p\"\nclear_to_percent = 90\n\
            [registries.\"a:1\"]\nmirrors = [\"https://b\"]\nca_file = \"ca.pem\"\ninsecure = true\nusername = \"u\"\n";
        let error = Config::parse("agent.toml".as_ref(), text).unwrap_err().to_string();
        for part in [
            "layers_at_once",
            "clear_to_percent",
            "https://b",
            "images.proxy",
            "ca_file",
            "plain HTTP",
            "password_file",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let text = "[registries.\"a:1\"]\nmirrors = [\"b:5000/x\"]\nusername = \"u\"\npassword_file = \"/p\"\n";
        assert!(Config::parse("agent.toml".as_ref(), text).is_ok());
    }
}

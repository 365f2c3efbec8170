//! Image names, in the short form that people write.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`. The registry and library that Docker implies are left out, so
/// `docker.io/library/hello:1` and `hello:1` are the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The registry that a name without one implies.
pub(super) const HUB: &str = "docker.io";

/// Longest repository, in bytes.
const REPOSITORY_MAX: usize = 255;

/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

impl ImageName {
    /// Parses and shortens a name; without tag and digest it means `latest`.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let refused = |reason| ImageError::Name { text: text.chars().take(300).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(refused)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(refused)?;
        }
        let repository = shorten(repository);
        check_repository(&repository).map_err(refused)?;
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { repository: repository.into_owned(), tag, digest })
    }

    /// The name without tag and digest.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry, `HOST[:PORT]`, and the repository as the registry calls it.
    pub fn location(&self) -> (&str, String) {
        match self.repository.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (HUB, self.repository.clone()),
            None => (HUB, format!("library/{}", self.repository)),
        }
    }

    /// The tag; `None` for a name that a digest alone completes.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether this name, as somebody asks for it, means an image that is stored as `named`. `index` is
    /// the index through which it was found.
    pub(super) fn means(&self, named: &Self, manifest: &Digest, index: Option<&Digest>) -> bool {
        self.repository == named.repository
            && match &self.digest {
                Some(digest) => digest == manifest || Some(digest) == index || Some(digest) == named.digest.as_ref(),
                None => self.tag.is_some() && self.tag == named.tag,
            }
    }

    /// The name under which an image is stored: the tag, or the digest alone where there is one. A
    /// digest never moves, so a tag beside it says nothing more.
    pub(super) fn to_stored(&self) -> Self {
        let tag = self.tag.clone().filter(|_| self.digest.is_none());
        Self { repository: self.repository.clone(), tag, digest: self.digest.clone() }
    }

    /// The same repository by a digest alone.
    pub(super) fn at(&self, digest: &Digest) -> Self {
        Self { repository: self.repository.clone(), tag: None, digest: Some(digest.clone()) }
    }

    /// What a registry is asked for: the digest, or else the tag.
    pub(super) fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }
}

/// Without what Docker implies. A path at its registry that begins like a registry keeps its own in front:
/// `docker.io/example.com/hello` is another image than `example.com/hello`.
fn shorten(repository: &str) -> Cow<'_, str> {
    let Some(path) = ["docker.io/", "index.docker.io/"].iter().find_map(|host| repository.strip_prefix(host)) else {
        return repository.into();
    };
    match path.split_once('/') {
        Some((first, _)) if is_host(first) => format!("{HUB}/{path}").into(),
        Some(("library", rest)) if !rest.contains('/') => rest.into(),
        _ => path.into(),
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if tag.len() > TAG_MAX || !fits || !tag.bytes().next().is_some_and(word) {
        return Err("a tag has 1 to 128 letters, digits, '_', '.' or '-', and starts with none of the last two");
    }
    Ok(())
}

/// As Docker tells them apart: a first part is a host when it looks like one.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.is_empty() || repository.len() > REPOSITORY_MAX {
        return Err("the name before the tag must have 1 to 255 characters");
    }
    let mut parts = repository.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    if repository.contains('/') && is_host(first) {
        let fits =
            first.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'));
        if !fits || !first.starts_with(|start: char| start.is_ascii_alphanumeric() || start == '[') {
            return Err("the registry must be a host name or address with an optional port");
        }
        parts.next();
    }
    for part in parts {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = part.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
        let ends = part.bytes().next().is_some_and(plain) && part.bytes().last().is_some_and(plain);
        if !fits || !ends || part.contains("..") {
            return Err("each part must be lower-case letters, digits, and '.', '_' or '-' between them");
        }
    }
    Ok(())
}

impl FromStr for ImageName {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_as_people_write_them() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (given, expected) in [
            ("hello", "hello:latest"),
            ("hello:1", "hello:1"),
            ("docker.io/library/hello:1", "hello:1"),
            ("index.docker.io/a/b", "a/b:latest"),
            ("library/hello", "library/hello:latest"),
            ("docker.io/ghcr.io/a/b:1", "docker.io/ghcr.io/a/b:1"),
            ("index.docker.io/docker.io/a", "docker.io/docker.io/a:latest"),
            ("localhost:5000/x/y:v1.2", "localhost:5000/x/y:v1.2"),
            ("ghcr.io/a/b_c-d", "ghcr.io/a/b_c-d:latest"),
            (&format!("hello@{digest}"), &format!("hello@{digest}")),
            (&format!("hello:2@{digest}"), &format!("hello:2@{digest}")),
        ] {
            let name = ImageName::parse(given).unwrap();
            assert_eq!(name.to_string(), expected);
            assert_eq!(ImageName::parse(expected).unwrap(), name);
        }
    }

    #[test]
    fn a_name_implies_its_registry() {
        for (given, registry, repository) in [
            ("hello", "docker.io", "library/hello"),
            ("team/hello:1", "docker.io", "team/hello"),
            ("docker.io/library/a/b", "docker.io", "library/a/b"),
            ("localhost/x", "localhost", "x"),
            ("docker.io/localhost/x", "docker.io", "localhost/x"),
            ("localhost:5000/x/y", "localhost:5000", "x/y"),
            ("[::1]:5000/x", "[::1]:5000", "x"),
            ("registry.barn/x/y/z", "registry.barn", "x/y/z"),
        ] {
            assert_eq!(ImageName::parse(given).unwrap().location(), (registry, repository.to_owned()), "{given}");
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "",
            ":1",
            "Hello",
            "a//b",
            "a:",
            "a:-x",
            "../a",
            "a/../b",
            "/a",
            "a/",
            "a b",
            "a@sha256:12",
            "a\0b",
            "-a",
            "a..b",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text:?}");
        }
    }
}

//! A request, parsed once: query, accepted forms, body.

use bytes::Bytes;
use serde_json::Value;

use super::User;
use super::failure::Failure;
use super::patience::Patience;
use crate::resource::{fields, manifest};

/// What Go clients send when they know the kind.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request whose body was read.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: hyper::Method,
    pub(super) path: String,
    pub(super) query: Query,
    pub(super) accept: String,
    pub(super) content_type: String,
    pub(super) body: Bytes,
    pub(super) user: User,
    /// The device that passed the request on, when one did.
    pub(super) forwarded_by: Option<String>,
    pub(super) headers: hyper::HeaderMap,
    /// The connection itself, where the client wants to go on without HTTP.
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// How long the connection waits for a client that takes nothing.
    pub(super) patience: Patience,
}

impl Ask {
    /// The body as JSON or YAML, by its content type.
    pub(super) fn value(&self) -> Result<Value, Failure> {
        let form = self.content_type.split(';').next().unwrap_or_default().trim();
        let unreadable =
            |reason: String| Failure::bad_request(format!("the body of the request can not be read: {reason}"));
        if form == PROTOBUF {
            return fields::from_protobuf(&self.body).map_err(|error| unreadable(error.to_string()));
        }
        let yaml = matches!(form, "application/yaml" | "application/apply-patch+yaml" | "text/yaml");
        if !yaml && !form.is_empty() && !form.ends_with("json") {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml; this one is {form}"
            );
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        }
        if yaml {
            let text = std::str::from_utf8(&self.body).map_err(|error| unreadable(error.to_string()))?;
            return manifest::value(text, "the body").map_err(|error| unreadable(error.to_string()));
        }
        serde_json::from_slice(&self.body).map_err(|error| unreadable(error.to_string()))
    }

    /// In which form the client wants objects.
    pub(super) fn form(&self) -> Result<Accept, Failure> {
        Accept::parse(&self.accept).ok_or_else(|| {
            let message = "only the following media types are accepted: application/json, and \
                           application/json;as=Table;v=v1;g=meta.k8s.io";
            Failure::new(406, "NotAcceptable", message)
        })
    }

    /// Whether nothing is to be written. Only `All` is known.
    pub(super) fn dry_run(&self) -> Result<bool, Failure> {
        match self.query.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                Err(Failure::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"")))
            }
        }
    }
}

/// The form of objects in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// As they are.
    Json,
    /// As a `Table` of this version of `meta.k8s.io`.
    Table(&'static str),
    /// Only their metadata, in this version of `meta.k8s.io`.
    Metadata(&'static str),
}

impl Accept {
    /// The first form of an `Accept` header that is known; `None` when none is.
    fn parse(header: &str) -> Option<Self> {
        if header.trim().is_empty() {
            return Some(Self::Json);
        }
        header.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut form, mut version) = ("", "");
            for part in parts {
                match part.split_once('=') {
                    Some(("as", value)) => form = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            let version = match version {
                "v1beta1" => "v1beta1",
                _ => "v1",
            };
            match (media, form) {
                ("application/json" | "*/*" | "application/*", "") => Some(Self::Json),
                ("application/json", "Table") => Some(Self::Table(version)),
                ("application/json", "PartialObjectMetadata" | "PartialObjectMetadataList") => {
                    Some(Self::Metadata(version))
                }
                _ => None,
            }
        })
    }
}

/// The parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// As it came, without `?`.
    pub(super) raw: String,
    pairs: Vec<(String, String)>,
}

/// The most parameters of one query.
const PARAMETERS_LIMIT: usize = 4096;

impl Query {
    pub(super) fn parse(raw: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        let pairs = raw.split('&').filter(|part| !part.is_empty()).take(PARAMETERS_LIMIT).map(pair).collect();
        Self { raw: raw.to_owned(), pairs }
    }

    /// The first value of a parameter; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// All values of a parameter, in order.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a parameter is switched on.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True" | "TRUE" | "t")
    }

    /// A parameter that is a whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        match self.get(name) {
            "" => Ok(None),
            text => {
                let wrong = |_| Failure::bad_request(format!("{name}: {text:?} is not a whole number"));
                text.parse().map(Some).map_err(wrong)
            }
        }
    }
}

/// Undoes percent encoding; what is not valid UTF-8 is replaced.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let pair = (bytes[index] == b'%').then(|| bytes.get(index + 1..index + 3)).flatten();
        let byte =
            pair.and_then(|pair| std::str::from_utf8(pair).ok()).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(byte.unwrap_or(bytes[index]));
        index += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+(a)&watch=1&limit=500&bad=%zz%4");
        assert_eq!(query.get("labelSelector"), "app=web,tier in (a)");
        assert!(query.flag("watch") && !query.flag("other"));
        assert_eq!(query.number("limit"), Ok(Some(500)));
        assert!(query.number("watch").is_ok() && query.number("bad").is_err());
        assert_eq!(query.get("bad"), "%zz%4");
    }

    #[test]
    fn the_first_known_form_is_taken() {
        let table = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
        assert_eq!(Accept::parse(table), Some(Accept::Table("v1beta1")));
        assert_eq!(Accept::parse("application/vnd.kubernetes.protobuf,application/json"), Some(Accept::Json));
        assert_eq!(Accept::parse("*/*"), Some(Accept::Json));
        assert_eq!(Accept::parse("application/json;stream=watch"), Some(Accept::Json));
        assert_eq!(Accept::parse("text/html"), None);
    }
}

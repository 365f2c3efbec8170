//! Speaks to registries: which hosts are asked for an image, how they are reached, and who asks. It
//! hands on what they answer, and believes nothing that has no digest.

mod auth;
mod challenge;
mod error;
mod http;
mod keychain;
mod proxy;
mod tls;
mod upload;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::{Method, Request, StatusCode, Uri};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use auth::token_in;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use challenge::Challenge;
pub use error::RegistryError;
pub use keychain::{Credentials, Keychain};
pub(super) use proxy::Proxies;

use super::blobs::JSON_MAX;
use super::manifest;
use super::name::HUB;
use super::{Digest, ImageError, ImageName};
use crate::config::RegistryConfig;
use crate::resource::Timestamp;
use http::{Answer, Body, Http, Origin};

/// The device's clock.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 5;
/// Most bytes of an answer that says no.
const REFUSAL_MAX: usize = 64 << 10;
/// Most characters of a registry's own words in an error.
const DETAIL_MAX: usize = 200;

/// How registries are reached from this device.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) registries: BTreeMap<String, RegistryConfig>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) wall: Wall,
}

/// What is to be done at a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Pull,
    Push,
}

/// One repository at one registry, or at a mirror of it.
pub(super) struct Endpoint {
    base: Origin,
    /// `HOST[:PORT]` as agent.toml and errors name it.
    shown: String,
    /// With the mirror's own path in front.
    repository: String,
    credentials: Option<Credentials>,
    purpose: Purpose,
    http: Http,
    /// What the registry accepted last.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A document as a registry sent it.
pub(super) struct Document {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
}

/// A blob on its way.
pub(super) struct Stream<'a> {
    /// Where in the blob it begins.
    pub(super) from: u64,
    answer: Answer<'a>,
}

impl Stream<'_> {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.answer.chunk().await
    }
}

impl Endpoint {
    /// Whom to ask for an image, in order: its registry's mirrors, and then the registry itself; for a
    /// push the registry alone. Blocks on the disk.
    pub(super) fn all(
        name: &ImageName,
        purpose: Purpose,
        keychain: &Keychain,
        ways: &Ways,
    ) -> Result<Vec<Self>, ImageError> {
        let (registry, repository) = name.location();
        let mirrors = ways.registries.get(registry).map(|config| config.mirrors.as_slice()).unwrap_or_default();
        let mirrors = if purpose == Purpose::Pull { mirrors } else { &[] };
        // Docker's implied registry has its API under another name, which is not for this program to know.
        let implied = registry == HUB;
        if implied && mirrors.is_empty() {
            return Err(ImageError::NoRegistry { name: name.clone(), hint: no_registry(name, purpose) });
        }
        let mut found = Vec::new();
        for mirror in mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let path = format!("{prefix}/{repository}").trim_start_matches('/').to_owned();
            found.push(Self::new(host, path, purpose, keychain, ways)?);
        }
        if !implied {
            found.push(Self::new(registry, repository, purpose, keychain, ways)?);
        }
        Ok(found)
    }

    fn new(
        host: &str,
        repository: String,
        purpose: Purpose,
        keychain: &Keychain,
        ways: &Ways,
    ) -> Result<Self, ImageError> {
        let config = ways.registries.get(host).cloned().unwrap_or_default();
        let credentials = match keychain.find(host, &repository) {
            Some(found) => Some(found.clone()),
            None => Credentials::configured(&config)?,
        };
        let scheme = if config.insecure { "http" } else { "https" };
        let base = format!("{scheme}://{host}/").parse::<Uri>().ok().and_then(|uri| Origin::of(&uri));
        let base = base.ok_or_else(|| ImageError::damaged(format!("registry {host}"), "it is no HOST[:PORT]"))?;
        let tls = if config.insecure { None } else { Some(tls::config(config.ca_file.as_deref(), &ways.wall)?) };
        let (shown, http) = (host.to_owned(), Http::new(tls, ways.proxies.clone()));
        Ok(Self { base, shown, repository, credentials, purpose, http, authorization: Mutex::default() })
    }

    /// `HOST[:PORT]`.
    pub(super) fn host(&self) -> &str {
        &self.shown
    }

    /// A manifest or an index by tag or digest, verified where there is a digest to verify it with.
    pub(super) async fn manifest(&self, reference: &str) -> Result<Document, RegistryError> {
        let asked = format!("manifest {}:{reference}", self.repository);
        let path = format!("manifests/{reference}");
        let accept = [(ACCEPT, manifest::ACCEPTED.to_owned())];
        let answer = self.ask(Method::GET, &path, &accept, nothing).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer, &asked).await);
        }
        let media_type = answer.header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
        let promised = answer.header("docker-content-digest").parse::<Digest>().ok();
        let limit = usize::try_from(JSON_MAX).unwrap_or(usize::MAX);
        let bytes = answer.whole(limit, &asked).await?;
        let digest = Digest::of(&bytes);
        let expected = reference.parse::<Digest>().ok().or(promised);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let reason = format!("its bytes have the digest {digest} in place of {expected}");
            return Err(self.malformed(&asked, reason));
        }
        Ok(Document { media_type, digest, bytes })
    }

    /// A blob from an offset on; where the registry can not do that, from its start.
    pub(super) async fn blob(&self, digest: &Digest, from: u64) -> Result<Stream<'_>, RegistryError> {
        let asked = format!("blob {digest}");
        let path = format!("blobs/{digest}");
        let range = (from > 0).then(|| (RANGE, format!("bytes={from}-")));
        let answer = self.ask(Method::GET, &path, range.as_slice(), nothing).await?;
        match answer.status {
            StatusCode::OK => Ok(Stream { from: 0, answer }),
            StatusCode::PARTIAL_CONTENT => {
                let begin = answer.header(CONTENT_RANGE).strip_prefix("bytes ").and_then(|range| range.split_once('-'));
                match begin.and_then(|(begin, _)| begin.parse::<u64>().ok()) {
                    Some(begin) if begin == from => Ok(Stream { from, answer }),
                    _ => Err(self.malformed(&asked, "it sent another part than the one that was asked for")),
                }
            }
            _ => Err(self.refused(answer, &asked).await),
        }
    }

    /// Sends a request, proves who asks when the registry wants to know, and follows redirects.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: impl Fn() -> Body,
    ) -> Result<Answer<'_>, RegistryError> {
        let scheme = if self.base.tls { "https" } else { "http" };
        let mut uri = if path.contains("://") {
            path.to_owned()
        } else {
            format!("{scheme}://{}/v2/{}/{path}", self.base.shown(), self.repository)
        };
        let (mut redirects, mut proved) = (0, false);
        loop {
            let parsed: Uri = uri.parse().map_err(|_| self.malformed(&uri, "it is no address"))?;
            let at_home = Origin::of(&parsed).is_some_and(|origin| origin == self.base);
            let mut request = Request::builder().method(method.clone()).uri(parsed.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(authorization) = self.authorization().filter(|_| at_home) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request.body(body()).map_err(|error| self.malformed(&uri, error))?;
            let answer = self.http.send(request).await?;
            if answer.status == StatusCode::UNAUTHORIZED && at_home && !proved {
                proved = true;
                if self.authenticate(&answer).await? {
                    // Read to its end, so that the connection can be used again.
                    let _ = answer.whole(REFUSAL_MAX, "authentication").await;
                    continue;
                }
                return Ok(answer);
            }
            let location = answer.header(LOCATION).to_owned();
            let moves = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) && !location.is_empty();
            if !moves || !matches!(method, Method::GET | Method::HEAD) {
                return Ok(answer);
            }
            redirects += 1;
            if redirects > REDIRECTS_MAX {
                return Err(self.malformed(path, format!("it redirects more than {REDIRECTS_MAX} times")));
            }
            uri = resolve(&parsed, &location);
            if self.base.tls && !uri.starts_with("https://") {
                return Err(self.malformed(path, "it redirects from TLS to a plain connection"));
            }
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[expect(clippy::needless_pass_by_value, reason = "a reason is a text or an error, made for this call")]
    fn malformed(&self, asked: &str, reason: impl ToString) -> RegistryError {
        RegistryError::Malformed { host: self.shown.clone(), asked: asked.into(), reason: reason.to_string() }
    }

    /// What an answer that says no comes to.
    async fn refused(&self, answer: Answer<'_>, asked: &str) -> RegistryError {
        let status = answer.status;
        let bytes = answer.whole(REFUSAL_MAX, asked).await.unwrap_or_default();
        RegistryError::Refused {
            host: self.shown.clone(),
            status,
            asked: asked.into(),
            detail: detail(&bytes),
            hint: self.hint(status),
        }
    }

    fn hint(&self, status: StatusCode) -> String {
        match status.as_u16() {
            401 if self.credentials.is_some() => "check the user name and the password".into(),
            401 => format!(
                "say who asks: imagePullSecrets in the pod, or username and password_file under [registries.{:?}] in agent.toml",
                self.shown
            ),
            403 if self.purpose == Purpose::Push => "this user may not push there".into(),
            403 => "this user may not pull it".into(),
            404 if self.purpose == Purpose::Pull => "check the name and the tag".into(),
            429 => "it limits how often it is asked: a mirror or a user name helps".into(),
            _ => String::new(),
        }
    }
}

/// What to do about a name without a registry.
fn no_registry(name: &ImageName, purpose: Purpose) -> String {
    if purpose == Purpose::Push {
        return format!("name one: kith image push {name} HOST:PORT/{name}");
    }
    format!(
        "write HOST:PORT/{name}, or say in /etc/kith/agent.toml of this device where such names are found, \
         and restart its agent:  [registries.\"{HUB}\"]  mirrors = [\"HOST:PORT\"]"
    )
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Where a `Location` leads, which may be relative to the request.
fn resolve(from: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
    match location.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}"),
        None => format!("{scheme}://{authority}/{}", location.trim_start_matches('/')),
    }
}

/// What a registry says about a refusal, in its own words, cut short and on one line.
pub(super) fn detail(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(bytes) else { return String::new() };
    let words = errors.errors.into_iter().map(|one| if one.message.is_empty() { one.code } else { one.message });
    let text = words.take(3).collect::<Vec<_>>().join(", ");
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(DETAIL_MAX).collect()
}

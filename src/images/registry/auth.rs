//! Proves to a registry who asks: by name and password, or by a token that another server gives.

#![expect(clippy::disallowed_methods, reason = "passwords lie in files")]

use std::fmt::Write as _;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};

use super::challenge::Challenge;
use super::http::{Answer, Body};
use super::{Credentials, Endpoint, Purpose, RegistryError, nothing};
use crate::config::RegistryConfig;
use crate::images::ImageError;

/// Largest answer of a token server, in bytes.
const TOKEN_MAX: usize = 256 << 10;

impl Credentials {
    /// A user with a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), identity_token: None }
    }

    /// Those that agent.toml names.
    pub(super) fn configured(config: &RegistryConfig) -> Result<Option<Self>, ImageError> {
        let Some(path) = config.password_file.as_ref().filter(|_| !config.username.is_empty()) else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ImageError::Io { step: format!("read password_file {}", path.display()), source })?;
        Ok(Some(Self::new(config.username.clone(), text.lines().next().unwrap_or_default())))
    }

    fn basic(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", self.username, self.password))
        ))
        .ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Endpoint {
    /// Finds out what the answer wants to see, and gets it. False: nothing that this device has would help.
    pub(super) async fn authenticate(&self, answer: &Answer<'_>) -> Result<bool, RegistryError> {
        let headers = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(Challenge::parse).collect();
        for challenge in challenges {
            let authorization = match challenge {
                Challenge::Basic => self.credentials.as_ref().and_then(Credentials::basic),
                Challenge::Bearer { realm, service, scope } => Some(self.token(&realm, service, scope).await?),
            };
            if let Some(authorization) = authorization {
                *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<HeaderValue, RegistryError> {
        let asked = format!("token from {realm}");
        // A password goes over the wire as openly as the registry's own answers do, and not more so.
        if !realm.starts_with("https://") && (self.base.tls || !realm.starts_with("http://")) {
            return Err(self.malformed(&asked, "its token server is not reached over TLS"));
        }
        let actions = if self.purpose == Purpose::Push { "pull,push" } else { "pull" };
        let scope = scope.unwrap_or_else(|| format!("repository:{}:{actions}", self.repository));
        let service = service.unwrap_or_default();
        let request = self.token_request(realm, &service, &scope);
        let request = request.map_err(|error| self.malformed(&asked, error))?;
        let answer = self.http.send(request).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer, &asked).await);
        }
        let bytes = answer.whole(TOKEN_MAX, &asked).await?;
        let token = token_in(&bytes).ok_or_else(|| self.malformed(&asked, "the answer holds no token"))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| self.malformed(&asked, "the token can not stand in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn token_request(&self, realm: &str, service: &str, scope: &str) -> hyper::http::Result<Request<Body>> {
        let question = format!("service={}&scope={}", encode(service), encode(scope));
        let identity = self.credentials.as_ref().and_then(|credentials| credentials.identity_token.as_ref());
        if let Some(token) = identity {
            let form = format!("grant_type=refresh_token&client_id=kith&{question}&refresh_token={}", encode(token));
            let body = Full::new(Bytes::from(form)).map_err(|never| match never {}).boxed_unsync();
            return Request::builder()
                .method(Method::POST)
                .uri(realm)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body);
        }
        let joint = if realm.contains('?') { '&' } else { '?' };
        let mut request = Request::builder().uri(format!("{realm}{joint}{question}"));
        if let Some(basic) = self.credentials.as_ref().and_then(Credentials::basic) {
            request = request.header(AUTHORIZATION, basic);
        }
        request.body(nothing())
    }
}

/// The token of a token server's answer.
pub(in crate::images) fn token_in(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Given {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let given: Given = serde_json::from_slice(bytes).ok()?;
    [given.token, given.access_token].into_iter().find(|token| !token.is_empty())
}

/// Text within a query.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

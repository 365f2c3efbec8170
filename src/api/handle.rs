//! From a request to its answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{HeaderMap, Method, Request, header};

use super::answer::{self, Answer};
use super::ask::{Ask, Query};
use super::eviction::EVICTION;
use super::failure::Failure;
use super::patience::Patience;
use super::peer::FORWARDED_BY;
use super::route::{Route, Target};
use super::{Api, ExtraBody, ExtraRequest, User, access, counting, discovery, openapi, stream};
use crate::metrics::counted;

/// The most bytes of a request's body: 3 MiB.
pub(super) const BODY_LIMIT: usize = 3 << 20;

/// The most bytes of a refused body that are read so that its sender hears the refusal.
const DISCARD_LIMIT: usize = 32 << 20;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

impl Api {
    /// Answers a request. What can not be done is an answer too.
    pub(super) async fn answer<B>(&self, request: Request<B>, user: User, patience: Patience) -> Answer
    where
        B: hyper::body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = tokio::time::Instant::now();
        let route = Route::parse(request.uri().path());
        let (verb, resource) = counting::labels(route.as_ref(), request.method(), request.uri().query());
        let mut warnings = Vec::new();
        let answered = match route {
            None => Err(Failure::no_such_path()),
            // Before the body is read: it is not for strangers to fill the memory.
            Some(route) => match access::check(&user, request.method(), &route) {
                Ok(()) => match read_body(request, user, patience).await {
                    Ok(ask) => self.dispatch(route, ask, &mut warnings).await,
                    Err(failure) => Err(failure),
                },
                Err(failure) => Err(failure),
            },
        };
        let mut answer = answered.unwrap_or_else(|failure| answer::failed(&failure));
        answer::warn(&mut answer, &warnings);
        counted::REQUESTS.record(verb, resource, answer.status().as_u16(), begun.elapsed());
        answer
    }

    async fn dispatch(&self, route: Route, ask: Ask, warnings: &mut Vec<String>) -> Result<Answer, Failure> {
        match route {
            Route::Objects(target) if stream::SUBRESOURCES.contains(&target.subresource.as_str()) => {
                return self.streams(&target, ask).await;
            }
            Route::Objects(target) => return self.objects(&target, &ask, warnings).await,
            Route::Extra | Route::Blobs => return self.extra(ask).await,
            Route::Metrics(wanted) if matches!(ask.method, Method::GET | Method::HEAD) => {
                return self.metrics(&wanted, &ask).await;
            }
            _ => {}
        }
        if ask.method != Method::GET && ask.method != Method::HEAD {
            return Err(Failure::wrong_method());
        }
        let release = &self.inner.config.version;
        let found = match route {
            Route::Version => Some(discovery::version(release)),
            Route::Health => return Ok(answer::whole(200, "text/plain", "ok")),
            Route::CoreVersions => Some(discovery::core_versions()),
            Route::Groups => Some(discovery::groups()),
            Route::Group(group) => discovery::group(&group),
            Route::Resources { group, version } => discovery::resources(&group, &version),
            Route::OpenApi2 if ask.accept.contains("com.github.proto-openapi.spec.v2") => {
                return Ok(answer::whole(200, openapi::PROTOBUF_2, openapi::version_2_protobuf(release)));
            }
            Route::OpenApi2 => Some(openapi::version_2(release)),
            Route::OpenApi3 => Some(openapi::version_3()),
            Route::OpenApi3Of { group, version } => openapi::version_3_of(&group, &version, release),
            Route::Objects(_) | Route::Metrics(_) | Route::Extra | Route::Blobs => None,
        };
        found.map(|value| answer::json(200, &value)).ok_or_else(Failure::no_such_path)
    }

    async fn objects(&self, target: &Target, ask: &Ask, warnings: &mut Vec<String>) -> Result<Answer, Failure> {
        let collection = target.name.is_empty();
        match (target.subresource.as_str(), &ask.method) {
            ("log", &Method::GET) => self.logs(target, ask).await,
            ("log", _) => Err(Failure::wrong_method()),
            (EVICTION, _) => self.evict(target, ask, warnings).await,
            ("", &Method::GET) if collection && ask.query.flag("watch") => self.watch(target, ask, warnings).await,
            ("", &Method::GET) if collection => self.list(target, ask, warnings).await,
            ("", &Method::POST) if collection => self.create(target, ask, warnings).await,
            ("", &Method::DELETE) if collection && target.kind.verbs.contains(&"deletecollection") => {
                self.delete_collection(target, ask).await
            }
            (_, &Method::GET) if !collection => self.get(target, ask, warnings).await,
            (_, &Method::PUT) if !collection => self.update(target, ask, warnings).await,
            (_, &Method::PATCH) if !collection => self.patch(target, ask, warnings).await,
            ("", &Method::DELETE) if !collection => self.delete(target, ask, warnings).await,
            _ => Err(Failure::wrong_method()),
        }
    }

    async fn extra(&self, ask: Ask) -> Result<Answer, Failure> {
        let request = ExtraRequest {
            method: ask.method.to_string(),
            path: ask.path,
            query: ask.query.raw,
            body: ask.body.to_vec(),
            user: ask.user,
        };
        let answered = self.inner.config.extra.handle(request).ok_or_else(Failure::no_such_path)?.await;
        Ok(match answered.body {
            ExtraBody::Whole(bytes) => answer::whole(answered.status, &answered.content_type, bytes),
            ExtraBody::Stream(chunks) => answer::stream(&answered.content_type, chunks),
        })
    }
}

/// Reads what is left of a refused body, up to a limit: a client that is still sending would lose
/// the answer with its connection.
async fn discard<B: hyper::body::Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut left = DISCARD_LIMIT;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

async fn read_body<B>(request: Request<B>, user: User, patience: Patience) -> Result<Ask, Failure>
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = request.into_parts();
    let mut body = Box::pin(body);
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(&mut body, BODY_LIMIT).collect());
    let body = match collected.await {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let _ = tokio::time::timeout(BODY_TIMEOUT, discard(body)).await;
            return Err(Failure::too_large(BODY_LIMIT));
        }
        Ok(Err(error)) => return Err(Failure::bad_request(format!("the body of the request ended early: {error}"))),
        Err(_) => return Err(Failure::new(408, "Timeout", "the body of the request did not come in time")),
    };
    Ok(Ask {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        accept: accepts(&head.headers),
        content_type: text(&head.headers, header::CONTENT_TYPE.as_str()),
        body,
        upgrade: head.extensions.remove(),
        patience,
        forwarded_by: head.headers.contains_key(FORWARDED_BY).then(|| text(&head.headers, FORWARDED_BY)),
        headers: head.headers,
        user,
    })
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn accepts(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    all.join(",")
}

//! Responses: JSON bodies, streams, `Warning` headers.

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use hyper::{Response, StatusCode};
use serde_json::Value;

use super::failure::Failure;

/// A response's body.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// A response.
pub(super) type Answer = Response<Body>;

/// The most warnings of one response, and the most characters of each.
const WARNINGS_LIMIT: usize = 32;
const WARNING_LENGTH_LIMIT: usize = 400;

/// A whole body.
pub(super) fn whole(code: u16, content_type: &str, bytes: impl Into<Bytes>) -> Answer {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
    built(code, content_type, body)
}

/// A JSON body.
pub(super) fn json(code: u16, value: &Value) -> Answer {
    // A JSON value always has a text.
    whole(code, "application/json", value.to_string())
}

/// A body that comes as it is made.
pub(super) fn stream(
    content_type: &str,
    chunks: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Answer {
    use futures_util::StreamExt as _;
    built(200, content_type, StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

fn built(code: u16, content_type: &str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// A failure's response.
pub(super) fn failed(failure: &Failure) -> Answer {
    let mut answer = json(failure.code, &failure.to_status());
    if failure.code == 503 {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// Adds `Warning: 299 - "text"` headers.
pub(super) fn warn(answer: &mut Answer, warnings: &[String]) {
    for text in warnings.iter().take(WARNINGS_LIMIT) {
        let mut quoted = String::with_capacity(text.len() + 2);
        for letter in text.chars().take(WARNING_LENGTH_LIMIT) {
            match letter {
                '"' | '\\' => quoted.extend(['\\', letter]),
                ' '..='~' => quoted.push(letter),
                '\n' | '\t' => quoted.push(' '),
                _ => quoted.push('?'),
            }
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_always_valid_headers() {
        let mut answer = json(200, &Value::Null);
        let odd = ["a \"b\" \\ \n\r\u{7f} é".to_owned(), "x".repeat(10_000)];
        warn(&mut answer, &[odd.to_vec(), vec!["y".into(); 100]].concat());
        let found: Vec<_> = answer.headers().get_all(WARNING).iter().collect();
        assert_eq!(found.len(), WARNINGS_LIMIT);
        assert_eq!(found[0].to_str().unwrap(), "299 - \"a \\\"b\\\" \\\\  ?? ?\"");
        assert!(found[1].len() < 500);
    }
}

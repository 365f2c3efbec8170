//! The client against a real HTTP server on a real socket.

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use tokio::net::UnixListener;

use super::*;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn answer(status: u16, body: &'static str) -> Response<Body> {
    Response::builder().status(status).body(Full::new(Bytes::from_static(body.as_bytes())).boxed_unsync()).unwrap()
}

/// Serves one connection after another with `reply`, and hands the client to `test`.
async fn against(reply: fn(Request<Incoming>) -> Response<Body>, test: impl AsyncFnOnce(Client)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kith.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(reply(request)) });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    test(Client::new(socket, false)).await;
    server.abort();
}

#[tokio::test]
async fn json_goes_there_and_back() {
    let reply = |request: Request<Incoming>| {
        assert_eq!(request.headers()[ACCEPT], media::JSON);
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), "/x?labelSelector=a%3Db");
        answer(200, r#"{"kind":"List"}"#)
    };
    against(reply, async |client| {
        let path = format!("/x{}", query([("labelSelector", "a=b".to_owned())]));
        let value: Value = client.get(&path).await.unwrap();
        assert_eq!(value["kind"], "List");
    })
    .await;
}

#[tokio::test]
async fn each_refusal_has_its_exit_code() {
    let reply = |request: Request<Incoming>| match request.uri().path() {
        "/404" => answer(404, r#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found","code":404}"#),
        "/422" => answer(422, r#"{"kind":"Status","reason":"Invalid","message":"spec.x: no","code":422}"#),
        "/503" => answer(503, r#"{"kind":"Status","message":"no leader with a quorum answered","code":503}"#),
        _ => answer(500, "oops"),
    };
    against(reply, async |client| {
        for (path, code, message) in [
            ("/404", Code::Refused, "pods \"x\" not found"),
            ("/422", Code::Refused, "spec.x: no"),
            ("/503", Code::Unreachable, "no leader with a quorum answered"),
            ("/500", Code::Failed, "oops"),
        ] {
            let failure = client.get::<Value>(path).await.unwrap_err();
            assert_eq!((failure.code, &failure.chain[0][..]), (code, message));
        }
        assert_eq!(client.find("/404").await.unwrap(), None);
        assert_eq!(client.find("/503").await.unwrap_err().code, Code::Unreachable);
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_cut_into_lines_wherever_its_pieces_end() {
    let reply = |_: Request<Incoming>| {
        let pieces = ["{\"a\":", "1}\n{\"b\":2}\n", "\n{\"c\"", ":3}"];
        let frames = stream::iter(pieces.map(|piece| Ok(Frame::data(Bytes::from(piece)))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    };
    against(reply, async |client| {
        let mut stream = client.stream(Ask::get("/watch")).await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = stream.line().await.unwrap() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(lines, ["{\"a\":1}", "{\"b\":2}", "", "{\"c\":3}"]);
    })
    .await;
}

#[tokio::test]
async fn nobody_at_the_socket_is_unreachable_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let failure = Client::new(dir.path().join("kith.sock"), false).get::<Value>("/").await.unwrap_err();
    assert_eq!(failure.code, Code::Unreachable);
    assert!(failure.hint.unwrap().contains("kith agent"));
}

#[test]
fn warnings_lose_their_quotes() {
    assert_eq!(warning_text("299 - \"spec.x is not honoured\"").unwrap(), "spec.x is not honoured");
    assert_eq!(warning_text(r#"299 kith "a \"b\" \\ c""#).unwrap(), r#"a "b" \ c"#);
    assert_eq!(warning_text("nonsense"), None);
}

use std::future::Future;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::reconciler::HttpAsk;
use crate::reconciler::container::{ContainerSpec, ObservedContainer, PodRef, StopSignal};
use crate::runtime::{Attached, Captured, ExecSession, ExecSpec, RuntimeError, Usage};

/// A runtime of one container whose programs end as their names say.
struct Programs;

impl Runtime for Programs {
    fn start(&self, _: ContainerSpec, _: Vec<PathBuf>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn stop<'a>(&'a self, _: &'a ContainerRef, _: StopSignal) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, _: &'a ContainerRef) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn exec<'a>(&'a self, own: &'a ContainerRef, _: ExecSpec) -> BoxFuture<'a, Result<ExecSession, RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Unknown(own.id())) })
    }

    fn exec_capture<'a>(
        &'a self,
        own: &'a ContainerRef,
        args: Vec<String>,
        _: Duration,
        _: usize,
    ) -> BoxFuture<'a, Result<Captured, RuntimeError>> {
        Box::pin(async move {
            let output = args[1..].join(" ").into_bytes();
            match args[0].as_str() {
                "missing" => Err(RuntimeError::Unknown(own.id())),
                "slow" => Ok(Captured { code: None, output }),
                code => Ok(Captured { code: code.parse().ok(), output }),
            }
        })
    }

    fn attach<'a>(&'a self, own: &'a ContainerRef, _: bool) -> BoxFuture<'a, Result<Option<Attached>, RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Unknown(own.id())) })
    }

    fn connect<'a>(
        &'a self,
        own: &'a ContainerRef,
        _: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Unknown(own.id())) })
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, RuntimeError>> {
        Box::pin(async { Ok(Usage::default()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ObservedContainer>, RuntimeError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

fn asked(handler: &Handler) -> Outcome {
    asked_of(handler, std::future::pending())
}

/// What comes of a handler while a server runs.
fn asked_of(handler: &Handler, server: impl Future<Output = ()>) -> Outcome {
    let pod = PodRef { namespace: "default".into(), name: "web".into(), uid: "u".into() };
    let reference = ContainerRef { pod, container: "c".into(), attempt: 0 };
    let asker = Asker::new(Arc::new(Programs)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let asked = asker.ask(&reference, handler, Duration::from_secs(20));
        tokio::pin!(server);
        tokio::pin!(asked);
        let mut served = false;
        loop {
            tokio::select! {
                outcome = &mut asked => return outcome,
                () = &mut server, if !served => served = true,
            }
        }
    })
}

fn listener() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Answers one connection with these bytes once a request has come.
async fn answer(listener: std::net::TcpListener, bytes: &'static [u8]) {
    let listener = TcpListener::from_std(listener).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = [0; 4096];
    let count = stream.read(&mut request).await.unwrap();
    let text = String::from_utf8_lossy(&request[..count]).into_owned();
    assert!(text.starts_with("GET /health?x=1 HTTP/1.1\r\n") && text.contains("x-probe: yes"), "{text}");
    assert!(text.to_lowercase().contains("host: own\r\n"), "{text}");
    stream.write_all(bytes).await.unwrap();
}

fn http(port: u16) -> Handler {
    let headers = vec![("X-Probe".to_owned(), "yes".to_owned()), ("Host".to_owned(), "own".to_owned())];
    Handler::Http(HttpAsk { tls: false, host: "127.0.0.1".into(), port, path: "/health?x=1".into(), headers })
}

#[test]
fn programs_succeed_with_code_zero() {
    let exec = |words: &[&str]| asked(&Handler::Exec(words.iter().map(|word| (*word).to_owned()).collect()));
    assert_eq!(exec(&["0"]), Outcome::Success);
    assert_eq!(exec(&["3", "no", "luck"]), Outcome::Failure("no luck".into()));
    assert_eq!(exec(&["3"]), Outcome::Failure("exit code 3".into()));
    assert_eq!(exec(&["slow"]), Outcome::Failure("command \"slow\" timed out after 20s".into()));
    assert!(matches!(exec(&["missing"]), Outcome::Unknown(_)), "nothing is known of a program that did not begin");
}

#[test]
fn http_answers_from_200_to_399_are_a_success() {
    for (bytes, wanted) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], Outcome::Success),
        (b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n", Outcome::Success),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            Outcome::Failure("HTTP probe failed with statuscode: 503".into()),
        ),
    ] {
        let (listener, port) = listener();
        assert_eq!(asked_of(&http(port), answer(listener, bytes)), wanted);
    }
    let (listener, port) = listener();
    let Outcome::Failure(why) = asked_of(&http(port), answer(listener, b"nonsense\r\n\r\n")) else {
        panic!("no failure")
    };
    assert!(why.starts_with("Get \"http://127.0.0.1:"), "{why}");
}

#[test]
fn https_asks_whoever_answers() {
    let (listener, port) = listener();
    let issued = rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let server = async {
        let listener = TcpListener::from_std(listener).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let _ = stream.flush().await;
        std::future::pending::<()>().await;
    };
    let Handler::Http(ask) = http(port) else { unreachable!() };
    assert_eq!(asked_of(&Handler::Http(HttpAsk { tls: true, ..ask }), server), Outcome::Success);
}

#[test]
fn a_port_that_nobody_listens_on_is_a_failure() {
    let (listener, port) = listener();
    assert_eq!(asked(&Handler::Tcp { host: "127.0.0.1".into(), port }), Outcome::Success);
    drop(listener);
    let Outcome::Failure(why) = asked(&Handler::Tcp { host: "127.0.0.1".into(), port }) else { panic!("no failure") };
    assert!(why.contains("refused"), "{why}");
    assert_eq!(asked(&Handler::Unusable("no such port".into())), Outcome::Failure("no such port".into()));
    assert_eq!(asked(&Handler::Sleep(Duration::from_millis(1))), Outcome::Success);
}

/// A gRPC health server that gives one answer.
async fn health(listener: std::net::TcpListener, message: &'static [u8], status: &'static str) {
    let listener = TcpListener::from_std(listener).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let head = hyper::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(bytes::Bytes::from_static(message), false).unwrap();
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", hyper::header::HeaderValue::from_static(status));
        body.send_trailers(trailers).unwrap();
    }
}

#[test]
fn a_grpc_server_says_whether_it_serves() {
    let ask = |message: &'static [u8], status: &'static str| {
        let (listener, port) = listener();
        let handler = Handler::Grpc { host: "127.0.0.1".into(), port, service: "shop".into() };
        asked_of(&handler, health(listener, message, status))
    };
    let failure = |text: &str| Outcome::Failure(text.into());
    assert_eq!(ask(&[0, 0, 0, 0, 2, 8, 1], "0"), Outcome::Success);
    assert_eq!(ask(&[0, 0, 0, 0, 2, 8, 2], "0"), failure("service unhealthy (responded with \"NOT_SERVING\")"));
    assert_eq!(ask(&[], "5"), failure("the server does not know the health of service \"shop\""));
    assert!(matches!(ask(&[0, 0, 0, 0, 9, 8], "0"), Outcome::Failure(why) if why.contains("HealthCheckResponse")));
}

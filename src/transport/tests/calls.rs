use super::*;

#[tokio::test]
async fn both_sides_call_over_one_connection() {
    let (one, two) = pair();
    assert_eq!(one.ask(&two, b"who").await.unwrap(), one.member.key.0);
    assert_eq!(two.ask(&one, b"who").await.unwrap(), two.member.key.0);
    let large = vec![7; 3 << 20];
    assert_eq!(one.ask(&two, &large).await.unwrap(), large);
    assert_eq!(one.ask(&two, b"").await.unwrap(), b"");
    assert_eq!((one.links(&two).0, two.links(&one).0), (1, 1));
    let reach = one.transport.reachable()[&two.member.key];
    assert!(reach.connected && reach.rtt > Duration::ZERO, "{reach:?}");
    one.transport.shutdown().await;
    two.transport.shutdown().await;
    let stopped = one.ask(&two, b"x").await.unwrap_err();
    assert!(stopped.to_string().contains("stopping"), "{stopped}");
}

#[tokio::test]
async fn dials_that_cross_end_in_one_preferred_connection() {
    let (one, two) = pair();
    for _ in 0..20 {
        let (there, back) = tokio::join!(one.ask(&two, b"a"), two.ask(&one, b"b"));
        assert_eq!((there.unwrap(), back.unwrap()), (b"a".to_vec(), b"b".to_vec()));
    }
    let (near, far) = (one.links(&two), two.links(&one));
    assert!(near.0 <= 2 && near.0 == far.0, "{near:?} {far:?}");
    println!("{} connections", near.0);
    if near.0 == 2 {
        let lower = one.member.key < two.member.key;
        assert_eq!((near.1, far.1), (Some(lower), Some(!lower)), "both prefer what the lower key dialled");
        // What the grace period does at its end.
        one.transport.0.peer(two.member.key).prune();
        two.transport.0.peer(one.member.key).prune();
        assert_eq!(one.ask(&two, b"c").await.unwrap(), b"c");
        assert_eq!(two.ask(&one, b"d").await.unwrap(), b"d");
        assert_eq!((one.links(&two).0, two.links(&one).0), (1, 1));
    }
}

#[tokio::test]
async fn a_thousand_calls_in_a_row() {
    let (one, two) = pair();
    one.ask(&two, b"warm").await.unwrap();
    let mut took: Vec<Duration> = Vec::with_capacity(1000);
    for _ in 0..1000 {
        let began = tokio::time::Instant::now();
        one.ask(&two, b"ping").await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    println!("1,000 calls: p50 {:?}, p99 {:?}, max {:?}", took[500], took[990], took[999]);
    assert_eq!(two.room.calls.load(Ordering::SeqCst), 1001);
}

#[tokio::test]
async fn many_calls_at_once_wait_for_streams_instead_of_failing() {
    let (one, two) = pair();
    let calls = (0..500u32).map(|n| {
        let one = &one;
        let two = &two;
        async move { (n, one.ask(two, &n.to_be_bytes()).await) }
    });
    for (n, answer) in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), n.to_be_bytes());
    }
}

#[tokio::test]
async fn a_byte_stream_carries_http() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;

    struct Http(Room);
    impl Service for Http {
        fn call(&self, from: DeviceKey, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
            self.0.call(from, request)
        }
        fn stream(&self, _from: DeviceKey, stream: Box<dyn ByteStream>) {
            let answer = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                let path = request.uri().path().to_owned();
                Ok::<_, std::convert::Infallible>(hyper::Response::new(path.repeat(10_000)))
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
        fn token_hash<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<[u8; 32], JoinRefusal>> {
            self.0.token_hash(token)
        }
        fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinGrant, JoinRefusal>> {
            self.0.join(ask)
        }
    }

    let (one, two) = pair();
    two.transport.serve(Arc::new(Http(Room::default())));
    let stream = one.transport.open(&two.member).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let running = tokio::spawn(connection);
    for path in ["/pods", "/nodes"] {
        let request = hyper::Request::get(path).header("host", "x").body(Empty::<bytes::Bytes>::new()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, path.repeat(10_000));
    }
    drop(sender);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_byte_stream_ends_for_both_sides() {
    let (one, two) = pair();
    let mut stream = one.transport.open(&two.member).await.unwrap();
    let sent = vec![5; 1 << 20];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = Vec::new();
    let (wrote, _) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        async { read.read_to_end(&mut got).await.unwrap() }
    );
    wrote.unwrap();
    assert!(got == sent);
    assert_eq!(two.room.streams.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_refuses_no_stream_that_is_over() {
    let (one, two) = pair();
    let refused = || {
        [(&one, &two), (&two, &one)].map(|(from, to)| {
            let link = from.transport.0.peer(to.member.key).preferred().unwrap();
            let sent = link.connection.stats().frame_tx;
            sent.stop_sending + sent.reset_stream
        })
    };
    // The first one opens the connection.
    one.ask(&two, b"beat").await.unwrap();
    let before = refused();
    for _ in 0..50 {
        one.ask(&two, b"beat").await.unwrap();
    }
    assert_eq!(refused(), before);
}

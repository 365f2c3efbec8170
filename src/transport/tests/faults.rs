use super::super::tls::{Expect, JOIN, PEER, SERVER_NAME, Tls};
use super::*;

/// A connection as a stranger would make it; the handshake is finished on its side.
async fn stranger(to: &Device, protocol: &[u8]) -> Result<quinn::Connection, quinn::ConnectionError> {
    let identity = new_identity();
    let config = Tls::new(&identity).unwrap().client(Expect::Anyone, protocol).unwrap();
    let endpoint = quinn::Endpoint::client(local(0)).unwrap();
    endpoint.connect_with(config, to.member.addresses[0], SERVER_NAME).unwrap().await
}

#[tokio::test]
async fn a_stranger_gets_no_application_byte() {
    let device = Device::start("one");
    let Ok(connection) = stranger(&device, PEER).await else { return };
    // TLS 1.3 lets a client finish before its certificate is judged: what it sends falls on stone.
    let answer = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        let _ = send.write_all(&[1, 0, 0, 0, 1, 7]).await;
        let _ = send.finish();
        let mut byte = [0];
        Ok::<_, quinn::ConnectionError>(recv.read_exact(&mut byte).await.is_ok())
    };
    assert!(!answer.await.unwrap_or(false), "a stranger was answered");
    let why = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(matches!(why, quinn::ConnectionError::ConnectionClosed(_)), "the handshake itself fails: {why}");
    assert_eq!(device.room.calls.load(Ordering::SeqCst), 0);
    assert_eq!(connection.stats().frame_rx.stream, 0, "no stream frame ever came back");
}

#[tokio::test]
async fn only_known_protocols_are_spoken_and_joiners_can_not_call() {
    let device = Device::start("one");
    assert!(stranger(&device, b"h3").await.is_err());
    let connection = stranger(&device, JOIN).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 1, 7]).await.unwrap();
    let _ = send.finish();
    assert!(recv.read_to_end(64).await.is_err() || connection.close_reason().is_some());
    assert_eq!(device.room.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_side_says_who_does_not_trust_whom() {
    let (one, two) = (Device::start("one"), Device::start("two"));
    one.trust.replace_members([&two.member]);
    let refused = one.ask(&two, b"x").await.unwrap_err();
    assert!(matches!(&refused, WireError::Untrusted { .. }), "{refused}");
    assert!(refused.to_string().contains("does not trust this device"), "{refused}");
    let unlisted = two.ask(&one, b"x").await.unwrap_err();
    assert!(unlisted.to_string().contains("this device does not list it"), "{unlisted}");
    // An address that another device took over: the key that was asked for does not answer there.
    let moved = Member { addresses: two.member.addresses.clone(), ..new_identity().member("three", Vec::new(), 1) };
    one.trust.replace_members([&moved]);
    let other = one.transport.call(&moved, b"x".to_vec(), PATIENCE).await.unwrap_err();
    assert!(other.to_string().contains("another device answers"), "{other}");
    assert_eq!(two.room.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn removal_ends_live_connections_and_streams() {
    let (one, two) = pair();
    let mut stream = one.transport.open(&two.member).await.unwrap();
    assert_eq!(one.ask(&two, b"x").await.unwrap(), b"x");
    two.trust.replace_members([&two.member]);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err(), "the stream must break, not end");
    let refused = one.ask(&two, b"x").await.unwrap_err();
    assert!(matches!(refused, WireError::Untrusted { .. }), "{refused}");
    assert!(!two.transport.reachable().contains_key(&one.member.key));
    // Listed again, it is welcome again at once.
    fleet(&[&one, &two]);
    let again = async {
        loop {
            if let Ok(answer) = one.ask(&two, b"y").await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, again).await.unwrap(), b"y");
}

/// A device in a runtime of its own, so that it can end as in a crash: its peers are told nothing.
async fn fragile(identity: Arc<Identity>, listen: SocketAddr) -> (tokio::runtime::Runtime, Device) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let start = async move { Device::start_with("two", &identity, listen, Room::default(), |_| {}) };
    let device = runtime.spawn(start).await.unwrap();
    (runtime, device)
}

async fn port_is_free(address: SocketAddr) {
    let free = async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
}

async fn restart_of_a_peer(dialed_by_one: bool) -> Duration {
    let one = Device::start("one");
    let identity = new_identity();
    let (runtime, two) = fragile(identity.clone(), local(0)).await;
    fleet(&[&one, &two]);
    if dialed_by_one {
        one.ask(&two, b"x").await.unwrap();
    } else {
        let (transport, member) = (two.transport.clone(), one.member.clone());
        let call = async move { transport.call(&member, b"x".to_vec(), PATIENCE).await };
        runtime.spawn(call).await.unwrap().unwrap();
    }
    let address = two.member.addresses[0];
    runtime.shutdown_background();
    drop(two);
    port_is_free(address).await;
    assert_eq!(one.transport.0.peer(identity.key()).links().0, 1, "nobody told that it is gone");
    let (runtime, two) = fragile(identity, address).await;
    fleet(&[&one, &two]);
    let began = tokio::time::Instant::now();
    assert_eq!(one.ask(&two, b"after").await.unwrap(), b"after");
    let took = began.elapsed();
    runtime.shutdown_background();
    took
}

#[tokio::test]
async fn the_next_call_after_a_peers_restart_works() {
    let dialed = restart_of_a_peer(true).await;
    let accepted = restart_of_a_peer(false).await;
    println!("first call after a restart: {dialed:?} where we had dialled, {accepted:?} where it had");
}

#[tokio::test]
async fn a_peer_that_moved_is_found_in_the_same_call() {
    let one = Device::start("one");
    let identity = new_identity();
    let (runtime, two) = fragile(identity.clone(), local(0)).await;
    fleet(&[&one, &two]);
    one.ask(&two, b"x").await.unwrap();
    let address = two.member.addresses[0];
    runtime.shutdown_background();
    drop(two);
    port_is_free(address).await;
    // Nobody says there that the old connection is gone.
    let _mute = std::net::UdpSocket::bind(address).unwrap();
    let (runtime, two) = fragile(identity, local(0)).await;
    fleet(&[&one, &two]);
    let began = tokio::time::Instant::now();
    assert_eq!(one.ask(&two, b"after").await.unwrap(), b"after");
    println!("first call after a silent move: {:?}", began.elapsed());
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_shutdown_lets_go_of_the_service_and_the_port() {
    let (one, two) = pair();
    one.ask(&two, b"x").await.unwrap();
    let (room, address) = (Arc::downgrade(&two.room), two.member.addresses[0]);
    two.transport.shutdown().await;
    drop(two);
    assert_eq!(room.strong_count(), 0, "something still holds the service");
    port_is_free(address).await;
    let gone = one.transport.reachable().into_values().next().unwrap();
    assert!(!gone.connected, "the peer was told at once");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_reported_with_each_address() {
    let (one, mut two) = pair();
    let gone = std::net::UdpSocket::bind(local(0)).unwrap();
    two.member.addresses = vec![gone.local_addr().unwrap(), local(1)];
    let error = one.transport.call(&two.member, b"x".to_vec(), PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, WireError::Unreachable { .. }), "{text}");
    for address in &two.member.addresses {
        assert!(text.contains(&address.to_string()), "{text}");
    }
    // One good address among bad ones is enough.
    two.member.addresses.push(two.transport.local_addr().unwrap());
    assert_eq!(one.transport.call(&two.member, b"x".to_vec(), PATIENCE).await.unwrap(), b"x");
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_in_time_and_harms_no_other() {
    let (one, two) = pair();
    let short = Duration::from_millis(300);
    let (never, other) =
        tokio::join!(one.transport.call(&two.member, b"never".to_vec(), short), one.ask(&two, b"other"));
    assert!(matches!(never, Err(WireError::TimedOut { waited, .. }) if waited == short), "{never:?}");
    assert_eq!(other.unwrap(), b"other");
    assert_eq!(one.links(&two).0, 1, "the connection is alive and is kept");
}

#[tokio::test]
async fn oversized_messages_are_refused_in_both_directions() {
    let (one, _) = pair();
    let small = |config: &mut TransportConfig| config.limits.message = 1 << 20;
    let two = Device::start_with("small", &new_identity(), local(0), Room::default(), small);
    fleet(&[&one, &two]);
    let request = one.ask(&two, &vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(request, WireError::TooLarge { .. }), "{request}");
    let answer = one.ask(&two, b"huge").await.unwrap_err();
    assert!(matches!(answer, WireError::TooLarge { .. }), "{answer}");
    let own = two.ask(&one, &vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(own, WireError::TooLarge { size: Some(_), .. }), "{own}");
    assert_eq!(one.ask(&two, b"still there").await.unwrap(), b"still there");
    assert_eq!(one.links(&two).0, 1);
}

#[tokio::test]
async fn garbage_and_half_streams_of_a_peer_are_harmless() {
    let (one, two) = pair();
    one.ask(&two, b"x").await.unwrap();
    let link = one.transport.0.peer(two.member.key).preferred().unwrap();
    for bytes in [&b""[..], &[9], &[1], &[1, 0, 0], &[1, 0xff, 0xff, 0xff, 0xff], &[1, 0, 0, 0, 9, 1, 2]] {
        let (mut send, mut recv) = link.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let _ = send.finish();
        let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(64)).await.unwrap();
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_empty()), "{bytes:?} was answered");
    }
    assert_eq!(two.room.calls.load(Ordering::SeqCst), 1);
    assert_eq!(one.ask(&two, b"y").await.unwrap(), b"y");
}

#[tokio::test]
async fn garbage_datagrams_are_harmless() {
    use rand::{Rng, SeedableRng};
    let seed = std::env::var("KITH_SEED").map_or(0x006b_6974_6800, |seed| seed.parse().unwrap());
    println!("seed {seed} (KITH_SEED)");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let (one, two) = pair();
    one.ask(&two, b"x").await.unwrap();
    let socket = tokio::net::UdpSocket::bind(local(0)).await.unwrap();
    for _ in 0..3000 {
        let mut bytes = vec![0; rng.random_range(0..1500)];
        rng.fill(&mut bytes[..]);
        if let [first, rest @ ..] = &mut bytes[..]
            && rng.random_bool(0.5)
            && rest.len() > 4
        {
            // Looks like the first packet of a handshake.
            *first = 0xc0 | (*first & 3);
            rest[..4].copy_from_slice(&[0, 0, 0, 1]);
        }
        socket.send_to(&bytes, two.member.addresses[0]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(one.ask(&two, b"y").await.unwrap(), b"y");
    assert_eq!(two.ask(&one, b"z").await.unwrap(), b"z");
    assert_eq!(two.room.calls.load(Ordering::SeqCst), 2);
}

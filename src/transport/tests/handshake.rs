//! The handshake of a join as the wire has it. `tests/golden/wire-join-1.txt` has one line for each
//! message, and for what both sides must know without being told.

use std::collections::BTreeSet;

use quinn::{Connection, RecvStream, SendStream};
use ring::hmac;

use super::super::join::{Answer, Ask, EXPORTER_LABEL, join, proof_key};
use super::super::tls::{Expect, JOIN, SERVER_NAME, Tls};
use super::joins::{FLEET, first, terms};
use super::*;
use crate::identity::{Epoch, Preference};
use crate::store::golden::{self, Message};

/// The joiner's key in the file; on a real connection its own stands there instead.
const KEY: DeviceKey = DeviceKey([7; 32]);

fn token() -> Token {
    let addresses = vec!["192.0.2.1:7443".parse().unwrap(), "[2001:db8::1]:7443".parse().unwrap()];
    Token { fleet: FLEET.into(), id: "0a1b2c3d4e".into(), secret: [5; 20], addresses }
}

fn member(key: DeviceKey) -> Member {
    let (name, zone) = ("lamp-1".into(), "barn".into());
    let addresses = vec!["192.0.2.7:7443".parse().unwrap(), "[2001:db8::7]:7443".parse().unwrap()];
    let voter = Preference::Prefer;
    Member { name, key, sealing_key: [8; 32], addresses, api_port: 6443, voter, zone, witness: true }
}

fn grant(key: DeviceKey) -> JoinGrant {
    let members = BTreeMap::from([(1, member(key))]);
    JoinGrant { fleet: FLEET.into(), member_id: 1, members, authority: "certificate".into(), epoch: Epoch::FIRST }
}

fn refusals() -> Vec<JoinRefusal> {
    vec![
        JoinRefusal::UnknownToken,
        JoinRefusal::Expired { at: "1970-01-01T00:00:02Z".into() },
        JoinRefusal::Used,
        JoinRefusal::WrongSecret,
        JoinRefusal::NameTaken { name: "n".into() },
        JoinRefusal::WitnessOnly,
        JoinRefusal::StillHere { name: "n".into() },
        JoinRefusal::Unavailable { reason: "r".into() },
    ]
}

/// Every message has a name; a new kind does not compile without.
fn ask_name(ask: &Ask) -> &'static str {
    match ask {
        Ask::Name { .. } => "ask/name",
        Ask::Show { .. } => "ask/show",
    }
}

fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Proof(_) => "answer/proof",
        Answer::Granted(_) => "answer/granted",
        Answer::Refused(JoinRefusal::UnknownToken) => "answer/unknown-token",
        Answer::Refused(JoinRefusal::Expired { .. }) => "answer/expired",
        Answer::Refused(JoinRefusal::Used) => "answer/used",
        Answer::Refused(JoinRefusal::WrongSecret) => "answer/wrong-secret",
        Answer::Refused(JoinRefusal::NameTaken { .. }) => "answer/name-taken",
        Answer::Refused(JoinRefusal::WitnessOnly) => "answer/witness-only",
        Answer::Refused(JoinRefusal::StillHere { .. }) => "answer/still-here",
        Answer::Refused(JoinRefusal::Unavailable { .. }) => "answer/unavailable",
    }
}

#[test]
fn the_handshake_is_read_and_written_as_before() {
    let proof = hmac::sign(&proof_key(&token().hash()), b"what only both ends of a session know");
    let asks =
        [Ask::Name { token: token().id }, Ask::Show { secret: token().secret, member: member(KEY), replace: true }];
    let mut answers = vec![Answer::Proof(proof.as_ref().try_into().unwrap()), Answer::Granted(grant(KEY))];
    answers.extend(refusals().into_iter().map(Answer::Refused));
    let mut messages: Vec<Message> = asks.iter().map(|ask| golden::message(ask_name(ask), ask)).collect();
    messages.extend(answers.iter().map(|answer| golden::message(answer_name(answer), answer)));
    let names: BTreeSet<&String> = messages.iter().map(|(name, ..)| name).collect();
    assert_eq!((names.len(), messages.len()), (12, 12), "one for each name above");

    let text = token().to_string();
    let read = text.parse::<Token>().unwrap().to_string();
    messages.push(("token".into(), text.into_bytes(), Some(read.into_bytes())));
    for (name, bytes) in [("protocol", JOIN), ("exporter-label", EXPORTER_LABEL)] {
        messages.push((name.into(), bytes.to_vec(), Some(bytes.to_vec())));
    }
    golden::compare("tests/golden/wire-join-1.txt", &messages);
}

/// A line of the file, with the key of who joins.
fn line(name: &str, key: DeviceKey) -> Vec<u8> {
    let text = include_str!("../../../tests/golden/wire-join-1.txt");
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let mut bytes = hex::decode(found.unwrap_or_else(|| panic!("no line for {name}"))).unwrap();
    if let Some(at) = bytes.windows(KEY.0.len()).position(|part| part == KEY.0) {
        bytes[at..at + KEY.0.len()].copy_from_slice(&key.0);
    }
    bytes
}

/// As the release before sends: nothing of this release's encoding has a part in it.
async fn say(send: &mut SendStream, bytes: &[u8]) {
    send.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
    send.write_all(bytes).await.unwrap();
}

async fn hear(recv: &mut RecvStream) -> Vec<u8> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.unwrap();
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    recv.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// The proof for this session in a message of before.
fn proof(connection: &Connection) -> Vec<u8> {
    let mut session = [0; 32];
    let label = line("exporter-label", KEY);
    connection.export_keying_material(&mut session, &label, token().id.as_bytes()).unwrap();
    let mut message = line("answer/proof", KEY);
    let from = message.len() - 32;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &token().hash());
    message[from..].copy_from_slice(hmac::sign(&key, &session).as_ref());
    message
}

#[tokio::test]
async fn a_joiner_that_speaks_as_before_is_let_in() {
    let (device, _) = first(|room, issued| {
        room.members.lock().unwrap().clear();
        room.tokens.lock().unwrap().insert(token().id, token().record(terms(2_000)));
        issued.id = token().id;
    });
    let joiner = new_identity();
    let protocol = line("protocol", KEY);
    let config = Tls::new(&joiner).unwrap().client(Expect::Anyone, &protocol).unwrap();
    let endpoint = quinn::Endpoint::client(local(0)).unwrap();
    let address = device.member.addresses[0];
    let connection = endpoint.connect_with(config, address, SERVER_NAME).unwrap().await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    say(&mut send, &line("ask/name", KEY)).await;
    assert_eq!(hear(&mut recv).await, proof(&connection));
    say(&mut send, &line("ask/show", joiner.key())).await;
    assert_eq!(hear(&mut recv).await, line("answer/granted", joiner.key()));
    assert_eq!(device.room.members.lock().unwrap()[&1], member(joiner.key()));
}

#[tokio::test]
async fn a_fleet_that_answers_as_before_is_joined() {
    let joiner = new_identity();
    let key = joiner.key();
    let config = TransportConfig::new(local(0), new_identity(), Trust::default(), Profile::Lan);
    let device = Transport::bind(config).unwrap();
    let mut token: Token = String::from_utf8(line("token", KEY)).unwrap().parse().unwrap();
    token.addresses = vec![device.local_addr().unwrap()];
    let answering = tokio::spawn(async move {
        let mut server = device.0.server.clone();
        server.crypto = Arc::new(device.0.tls.server(Trust::default()).unwrap());
        let incoming = device.0.endpoint.accept().await.unwrap();
        let connection = incoming.accept_with(Arc::new(server)).unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        assert_eq!(hear(&mut recv).await, line("ask/name", KEY));
        say(&mut send, &proof(&connection)).await;
        assert_eq!(hear(&mut recv).await, line("ask/show", key));
        say(&mut send, &line("answer/granted", key)).await;
        connection.closed().await;
    });
    assert_eq!(join(&token, &joiner, member(key), true).await.unwrap(), grant(key));
    answering.await.unwrap();
}

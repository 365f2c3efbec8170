use super::super::join::join;
use super::*;
use crate::identity::{Role, TokenTerms};

pub(super) const FLEET: &str = "00112233445566778899aabbccddeeff";

pub(super) fn terms(expires: u64) -> TokenTerms {
    let (created, expires) = (Timestamp(0), Timestamp(expires));
    TokenTerms { role: Role::Device, uses: 1, expires, created, created_by: "test".into() }
}

/// A device of a fleet, and a token for it.
pub(super) fn first(change: impl FnOnce(&mut Room, &mut Token)) -> (Device, Token) {
    let identity = new_identity();
    let mut token = Token::issue(FLEET, Vec::new()).unwrap();
    let mut room = Room { fleet: FLEET.into(), now: Timestamp(1_000), ..Room::default() };
    room.tokens.lock().unwrap().insert(token.id.clone(), token.record(terms(2_000)));
    room.members.lock().unwrap().insert(1, identity.member("one", Vec::new(), 1));
    change(&mut room, &mut token);
    let device = Device::start_with("one", &identity, local(0), room, |_| {});
    token.addresses.push(device.member.addresses[0]);
    (device, token)
}

async fn enter(token: &Token, name: &str) -> Result<JoinGrant, JoinError> {
    let identity = new_identity();
    join(token, &identity, identity.member(name, vec![local(9)], 6443), false).await
}

fn refusal(result: Result<JoinGrant, JoinError>) -> JoinRefusal {
    match result {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_admits_one_device_and_the_same_one_again() {
    let (_device, token) = first(|_, _| {});
    let identity = new_identity();
    let member = identity.member("two", vec![local(9)], 6443);
    let token: Token = token.to_string().parse().unwrap();
    let grant = join(&token, &identity, member.clone(), false).await.unwrap();
    assert_eq!((grant.fleet.as_str(), grant.member_id), (FLEET, 2));
    assert_eq!(grant.members[&2], member);
    let again = join(&token, &identity, member, false).await.unwrap();
    assert_eq!(again, grant, "an answer that was lost on the way is given again");
    assert_eq!(refusal(enter(&token, "three").await), JoinRefusal::Used);
}

#[tokio::test]
async fn every_refusal_arrives_as_what_it_is() {
    let (_device, token) = first(|room, _| room.tokens.lock().unwrap().clear());
    assert_eq!(refusal(enter(&token, "two").await), JoinRefusal::UnknownToken);

    let (_device, token) = first(|room, _| room.now = Timestamp(2_000));
    assert_eq!(refusal(enter(&token, "two").await), JoinRefusal::Expired { at: "1970-01-01T00:00:02Z".into() });

    let (_device, token) = first(|_, _| {});
    assert_eq!(refusal(enter(&token, "one").await), JoinRefusal::NameTaken { name: "one".into() });
    enter(&token, "two").await.unwrap();
    assert_eq!(refusal(enter(&token, "three").await), JoinRefusal::Used);
}

#[tokio::test]
async fn an_impostor_is_told_from_the_fleet_and_never_sees_the_secret() {
    // It knows the token's id, but not its secret.
    let (device, token) = first(|room, token| {
        let guess = Token { secret: [0; 20], ..token.clone() };
        room.tokens.lock().unwrap().insert(token.id.clone(), guess.record(terms(2_000)));
    });
    let error = enter(&token, "two").await.unwrap_err();
    assert!(matches!(error, JoinError::Impostor { .. }), "{error}");
    assert_eq!(device.room.members.lock().unwrap().len(), 1);

    // The right secret, but another fleet than the token says.
    let (_device, token) = first(|room, _| room.fleet = "other".into());
    let error = enter(&token, "two").await.unwrap_err();
    assert!(matches!(&error, JoinError::OtherFleet { found, .. } if found == "other"), "{error}");
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_all_named_when_none_answers() {
    let (_device, mut token) = first(|_, _| {});
    let good = token.addresses.pop().unwrap();
    // Nothing can be sent to port 0.
    token.addresses = vec![local(0), "[::1]:0".parse().unwrap()];
    let error = enter(&token, "two").await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    for address in &token.addresses {
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    let silent = std::net::UdpSocket::bind(local(0)).unwrap();
    token.addresses.push(silent.local_addr().unwrap());
    token.addresses.push(good);
    enter(&token, "two").await.unwrap();
    token.addresses.clear();
    assert!(enter(&token, "two").await.unwrap_err().to_string().contains("no address"));
}

#[tokio::test]
async fn a_joiner_can_not_name_anothers_key() {
    let (device, token) = first(|_, _| {});
    let (one, other) = (new_identity(), new_identity());
    let stolen = other.member("two", Vec::new(), 1);
    let error = join(&token, &one, stolen, false).await.unwrap_err();
    assert!(matches!(error, JoinError::Interrupted { .. }), "{error}");
    assert_eq!(device.room.members.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_proof_that_somebody_passes_on_is_worth_nothing() {
    use super::super::frame;
    use super::super::tls::{Expect, JOIN, SERVER_NAME, Tls};

    let (device, mut token) = first(|_, _| {});
    let between = new_identity();
    let config = TransportConfig::new(local(0), between.clone(), Trust::default(), Profile::Lan);
    let relay = Transport::bind(config).unwrap();
    let real = std::mem::replace(&mut token.addresses, vec![relay.local_addr().unwrap()])[0];
    let passing_on = tokio::spawn(async move {
        let mut server = relay.0.server.clone();
        server.crypto = Arc::new(relay.0.tls.server(Trust::default()).unwrap());
        let incoming = relay.0.endpoint.accept().await.unwrap();
        let joiner = incoming.accept_with(Arc::new(server)).unwrap().await.unwrap();
        let (mut to_joiner, mut from_joiner) = joiner.accept_bi().await.unwrap();
        let client = Tls::new(&between).unwrap().client(Expect::Anyone, JOIN).unwrap();
        let fleet = relay.0.endpoint.connect_with(client, real, SERVER_NAME).unwrap().await.unwrap();
        let (mut to_fleet, mut from_fleet) = fleet.open_bi().await.unwrap();
        let name = frame::read(&mut from_joiner, 1 << 20).await.unwrap();
        frame::write(&mut to_fleet, &name, 1 << 20).await.unwrap();
        let proof = frame::read(&mut from_fleet, 1 << 20).await.unwrap();
        frame::write(&mut to_joiner, &proof, 1 << 20).await.unwrap();
        frame::read(&mut from_joiner, 1 << 20).await
    });
    let error = enter(&token, "two").await.unwrap_err();
    assert!(matches!(error, JoinError::Impostor { .. }), "{error}");
    let secret = tokio::time::timeout(PATIENCE, passing_on).await.unwrap().unwrap();
    assert!(secret.is_err(), "the secret was shown to somebody in between");
    assert_eq!(device.room.members.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn joins_at_once_are_limited_and_a_silent_joiner_holds_nothing_for_long() {
    use super::super::tls::{Expect, JOIN, SERVER_NAME, Tls};

    let (identity, room) = (new_identity(), Room::default());
    let device = Device::start_with("one", &identity, local(0), room, |config| config.limits.joins = 1);
    let address = device.member.addresses[0];
    let client = Tls::new(&new_identity()).unwrap().client(Expect::Anyone, JOIN).unwrap();
    let endpoint = quinn::Endpoint::client(local(0)).unwrap();
    let silent = endpoint.connect_with(client, address, SERVER_NAME).unwrap().await.unwrap();
    let taken = async {
        while device.transport.0.joins.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    let token = Token::issue(FLEET, vec![address]).unwrap();
    let busy = enter(&token, "two").await.unwrap_err();
    assert!(busy.to_string().contains("too many devices join"), "{busy}");
    silent.close(0u8.into(), b"");
    let freed = tokio::time::timeout(PATIENCE, device.transport.0.joins.acquire()).await.unwrap();
    drop(freed);
    assert_eq!(refusal(enter(&token, "two").await), JoinRefusal::UnknownToken);
}

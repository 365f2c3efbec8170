//! Questions between agents, behind one door: signing, opening secrets, and taking part. It only leads to who answers.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::authority::{self, Signer};
use super::enter::{self, Gatekeeper};
use super::keyring::{self, Keyring};
use super::programs::{self, Programs};
use super::reports::Reports;
use crate::consensus::Engine;
use crate::identity::DeviceKey;
use crate::store::codec;

/// A question of one agent to another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerAsk {
    /// To a voter: sign this.
    Sign(authority::Ask),
    /// To the leader: a device wants to take part.
    Enter(enter::Ask),
    /// To a voter: open this.
    Open(keyring::Ask),
    /// To any device: about its program.
    Program(programs::Ask),
}

/// Who answers.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) signer: Signer,
    pub(crate) keyring: Keyring,
    pub(crate) gatekeeper: Gatekeeper,
    pub(crate) programs: Programs,
}

/// Answers members, and those who ask to be let in again.
pub(crate) fn attend(engine: &Engine, signer: &Signer, keyring: &Keyring, programs: &Programs, reports: &Arc<Reports>) {
    let gatekeeper = Gatekeeper { engine: engine.clone(), reports: reports.clone() };
    let desk = Desk {
        signer: signer.clone(),
        keyring: keyring.clone(),
        gatekeeper: gatekeeper.clone(),
        programs: programs.clone(),
    };
    engine.set_app_handler(Arc::new(move |from, request| desk.answer(from, request)));
    engine.set_enter_handler(Arc::new(move |from, request| {
        let gatekeeper = gatekeeper.clone();
        Box::pin(async move { gatekeeper.carry(from, request).await })
    }));
}

impl Desk {
    /// Answers a member.
    pub(crate) fn answer(&self, from: DeviceKey, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let desk = self.clone();
        Box::pin(async move {
            match codec::decode(&request) {
                Ok(PeerAsk::Sign(ask)) => desk.signer.answer(from, &ask),
                Ok(PeerAsk::Open(ask)) => desk.keyring.answer(from, &ask),
                Ok(PeerAsk::Program(ask)) => desk.programs.answer(ask).await,
                Ok(PeerAsk::Enter(ask)) => codec::encode(&desk.gatekeeper.decide(ask).await).unwrap_or_default(),
                Err(error) => Signer::misunderstood(&error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::LockedValue;
    use crate::identity::{Epoch, Member, Run};
    use crate::store::golden::{compare, message};

    /// Every question has a name; a new one does not compile without.
    fn name(ask: &PeerAsk) -> &'static str {
        match ask {
            PeerAsk::Sign(authority::Ask::SignServing { .. }) => "sign-serving",
            PeerAsk::Sign(authority::Ask::SignClient { .. }) => "sign-client",
            PeerAsk::Enter(_) => "enter",
            PeerAsk::Open(keyring::Ask::ForPod { .. }) => "open-for-pod",
            PeerAsk::Open(keyring::Ask::ForUser { .. }) => "open-for-user",
            PeerAsk::Program(programs::Ask::State) => "program-state",
            PeerAsk::Program(programs::Ask::Piece { .. }) => "program-piece",
        }
    }

    #[test]
    fn questions_of_agents_are_read_and_written_as_before() {
        let member = || Member { name: "lamp-1".into(), key: DeviceKey([7; 32]), api_port: 6443, ..Member::default() };
        let run = Run { starts: 3, nonce: 5 };
        let (public_key, addresses) = (vec![1, 2], vec!["192.0.2.1".parse().unwrap()]);
        let values = vec![LockedValue { place: "p".into(), bytes: vec![4] }];
        let asks = [
            PeerAsk::Sign(authority::Ask::SignServing { public_key: public_key.clone(), addresses }),
            PeerAsk::Sign(authority::Ask::SignClient { public_key, user: "u".into(), groups: vec!["g".into()] }),
            PeerAsk::Enter(enter::Ask { member: member(), run, why: enter::Why::Moved }),
            PeerAsk::Open(keyring::Ask::ForPod { namespace: "n".into(), name: "s".into() }),
            PeerAsk::Open(keyring::Ask::ForUser { values }),
            PeerAsk::Program(programs::Ask::State),
            PeerAsk::Program(programs::Ask::Piece { digest: "d".into(), offset: 1 << 18 }),
        ];
        let mut messages: Vec<_> = asks.iter().map(|ask| message(format!("ask/{}", name(ask)), ask)).collect();
        assert_eq!(messages.len(), 7, "one for each name");
        let members = BTreeMap::from([(3, member())]);
        for (name, decision) in [
            ("registered", enter::Decision::Registered),
            ("admitted", enter::Decision::Admitted { id: 3, epoch: Epoch(1 << 32), members }),
            ("fenced", enter::Decision::Fenced { reason: "r".into() }),
            ("refused", enter::Decision::Refused { reason: "r".into() }),
        ] {
            messages.push(message(format!("decision/{name}"), &decision));
        }
        let reply = |reply: programs::Reply| -> programs::Answer { Ok(reply) };
        messages.push(message("answer/state", &reply(programs::Reply::State("{}".into()))));
        messages.push(message("answer/piece", &reply(programs::Reply::Piece(vec![1, 2]))));
        messages
            .push(message("answer/opened", &Ok::<_, String>(keyring::Opened { revision: 3, values: BTreeMap::new() })));
        compare("tests/golden/wire-agents-1.txt", &messages);
    }
}

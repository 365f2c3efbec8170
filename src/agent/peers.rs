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

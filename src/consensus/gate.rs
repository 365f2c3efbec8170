//! What one member may ask of the leader for another, and for itself. The sender is whoever proved
//! the key on the connection, whatever the message says. It knows members and never looks inside a
//! document.
//!
//! A device of the fleet is trusted to pass on what its administrators ask of it: root on it is an
//! administrator. A witness is not: it votes, and nobody administers a fleet through it. A record in
//! the membership is changed by its own device only, and what it was admitted as stays.

use super::engine::Engine;
use super::message::{Proposed, Refusal, Response, ToLeader};
use crate::identity::{DeviceKey, Member};

/// Why a witness carries no writes, and where to go instead.
pub(super) const WITNESS: &str = "a witness only votes, and carries no writes: ask another device of the fleet";

impl Engine {
    /// The answer to a request that its sender may not make; `None` when it may.
    pub(super) fn forbids(&self, from: DeviceKey, request: &ToLeader) -> Option<Response> {
        let members = self.inner.peers.members().borrow().clone();
        let sender = members.iter().find(|(_, member)| member.key == from);
        let Some((&id, member)) = sender else {
            return Some(Response::Failed("only members of this fleet may ask its leader".into()));
        };
        // Who leads could write to the log without asking.
        if id == self.inner.id {
            return None;
        }
        refusal(id, member, request)
    }

    /// Whether this device passes on writes at all.
    pub(super) fn carries_writes(&self) -> bool {
        !self.inner.peers.member(self.inner.id).is_some_and(|member| member.witness)
    }
}

fn refusal(id: u64, sender: &Member, request: &ToLeader) -> Option<Response> {
    let refused =
        |what: &str| Some(Response::Refused(Refusal::NotAllowed { name: sender.name.clone(), what: what.into() }));
    match request {
        ToLeader::Propose(txns) if sender.witness => {
            let reason = format!("{}: {WITNESS}", sender.name);
            Some(Response::Proposed(vec![Proposed::Refused { reason }; txns.len()]))
        }
        ToLeader::AddMember(_) | ToLeader::Readmit(..) if sender.witness => refused("admit a device: it is a witness"),
        ToLeader::TransferTo(_) if sender.witness => refused("say who leads: it is a witness"),
        ToLeader::RemoveMember(other) if sender.witness && *other != id => {
            refused("remove another device: it is a witness")
        }
        ToLeader::UpdateMember(other, _) if *other != id => refused("change what the fleet knows of another device"),
        ToLeader::UpdateMember(_, changed) if (changed.key, changed.witness) != (sender.key, sender.witness) => {
            refused("become something else than it was admitted as")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Timestamp;
    use crate::store::{Batch, Txn};

    fn propose() -> ToLeader {
        let batch = Batch::default();
        ToLeader::Propose(vec![Txn { client: 1, sequence: 1, settled: 0, at: Timestamp(0), batch }])
    }

    #[test]
    fn a_witness_asks_for_nothing_but_what_is_its_own() {
        let witness = Member { name: "w".into(), witness: true, ..Member::default() };
        let device = Member { name: "d".into(), ..Member::default() };
        let asks = [propose(), ToLeader::AddMember(device.clone()), ToLeader::RemoveMember(1), ToLeader::TransferTo(1)];
        for ask in asks {
            assert!(refusal(2, &witness, &ask).is_some(), "{ask:?}");
            assert!(refusal(2, &device, &ask).is_none(), "{ask:?}");
        }
        let own = [ToLeader::RemoveMember(2), ToLeader::ReadIndex, ToLeader::Observe];
        assert!(own.iter().all(|ask| refusal(2, &witness, ask).is_none()));
        let moved = Member { api_port: 9, ..witness.clone() };
        assert!(refusal(2, &witness, &ToLeader::UpdateMember(2, moved)).is_none());
    }

    #[test]
    fn a_record_is_changed_by_its_own_device_and_only_in_what_may_change() {
        let device = Member { name: "d".into(), ..Member::default() };
        let changed = Member { api_port: 9, ..device.clone() };
        assert!(refusal(2, &device, &ToLeader::UpdateMember(2, changed.clone())).is_none());
        assert!(refusal(2, &device, &ToLeader::UpdateMember(3, changed.clone())).is_some());
        for wrong in [Member { witness: true, ..changed.clone() }, Member { key: DeviceKey([1; 32]), ..changed }] {
            assert!(refusal(2, &device, &ToLeader::UpdateMember(2, wrong)).is_some());
        }
    }
}

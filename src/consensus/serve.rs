//! Answering the other members, and asking the leader.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::{Engine, EngineError, Leadership};
use super::guard::Objection;
use super::message::{Answer, Envelope, Request, Response, ToLeader};
use super::timing::{MEMBERSHIP_TIMEOUT, PROPOSE_TIMEOUT, RETRY};
use crate::identity::DeviceKey;
use crate::store::codec;

impl Engine {
    /// Answers a request of a trusted peer. What is not a request gets an answer that says so.
    pub async fn handle(&self, from: DeviceKey, request: Vec<u8>) -> Vec<u8> {
        let response = match codec::decode::<Envelope>(&request) {
            Ok(_) if self.inner.stop.is_cancelled() => Response::Failed("this agent is stopping".into()),
            // Whoever asks to be let in may know this device under an id from before.
            Ok(Envelope { request: Request::Enter(ask), .. }) => self.answer_enter(from, ask).await,
            Ok(envelope) if envelope.to != self.inner.id => {
                Response::Failed(format!("this is member {}, not {}", self.inner.id, envelope.to))
            }
            // A new device knows no members yet, so an unknown id passes: the transport knows the key.
            Ok(envelope) if self.inner.peers.member(envelope.from).is_some_and(|member| member.key != from) => {
                Response::Failed(format!("member {} has another key", envelope.from))
            }
            Ok(envelope) if self.renamed(from, envelope.from) => {
                let message = format!("member {} has joined anew since, under another id", envelope.from);
                Response::Failed(message)
            }
            Ok(envelope) => {
                drop(request);
                match self.inner.peers.guard.hear(envelope.from, envelope.stamp) {
                    Ok(()) => {
                        self.inner.peers.heard_from(envelope.from);
                        // An older image finds out before it acts on anything.
                        self.inner.peers.guard.accused(&Objection::Run { recorded: envelope.knows });
                        self.answer(from, envelope).await
                    }
                    Err(objection) => Response::Objected(objection),
                }
            }
            Err(error) => Response::Failed(format!("the request does not decode: {error}")),
        };
        codec::encode(&Answer { stamp: self.inner.peers.guard.stamp(), response }).unwrap_or_default()
    }

    async fn answer(&self, from: DeviceKey, envelope: Envelope) -> Response {
        let raft = &self.inner.raft;
        if let Request::Hello = envelope.request {
            return Response::Members((**self.inner.peers.members().borrow()).clone());
        }
        if let Some(why) = self.apart() {
            return Response::Failed(why);
        }
        if let Some(why) = self.no_room_for(&envelope.request) {
            return Response::Failed(why);
        }
        match envelope.request {
            Request::Append(request) => match raft.append_entries(request).await {
                Ok(response) => {
                    if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                        self.inner.peers.heard_leader();
                    }
                    Response::Append(response)
                }
                Err(error) => Response::Failed(error.to_string()),
            },
            Request::Vote(request) => answer_vote(raft.vote(request).await),
            Request::PreVote(request) => answer_vote(raft.pre_vote(request).await),
            Request::Snapshot(piece) => self.receive(envelope.from, piece).await,
            Request::TransferLeader(request) => match raft.handle_transfer_leader(request).await {
                Ok(response) => Response::TransferLeader(response),
                Err(error) => Response::Failed(error.to_string()),
            },
            Request::Leader(request) => {
                match request {
                    ToLeader::Propose(_) => self.inner.peers.note_writer(envelope.from),
                    ToLeader::ReadIndex => self.inner.peers.note_reader(envelope.from),
                    _ => {}
                }
                self.lead(from, request).await
            }
            Request::WouldLead => Response::Willing(self.willing()),
            Request::App(request) => self.answer_app(from, request).await,
            Request::Heard(signs) => {
                self.note_signs(&signs);
                Response::Noted
            }
            Request::Follow(_) | Request::Pull(_) | Request::Relay(_)
                if self.inner.peers.member(envelope.from).is_none() =>
            {
                Response::Failed(format!("this device knows no member {} yet", envelope.from))
            }
            Request::Follow(follow) => self.feed(envelope.from, follow).await,
            Request::Pull(pull) => self.give(envelope.from, pull).await,
            Request::Relay(request) => self.relay(request).await,
            // Both were answered before it was asked whether this device takes part.
            Request::Hello | Request::Enter(_) => Response::Failed("this device takes no part".into()),
        }
    }

    /// Whether a key that says it is one member is another one by now.
    fn renamed(&self, key: DeviceKey, claimed: u64) -> bool {
        let members = self.inner.peers.members().borrow().clone();
        !members.contains_key(&claimed) && members.values().any(|member| member.key == key)
    }

    /// Why this device takes no part in its fleet, if it does not.
    pub(super) fn apart(&self) -> Option<String> {
        let verdict = self.verdict().borrow().why();
        (!verdict.is_empty()).then_some(verdict)
    }

    async fn answer_enter(&self, from: DeviceKey, ask: Vec<u8>) -> Response {
        if let Some(why) = self.apart() {
            return Response::Failed(why);
        }
        match self.inner.enter.load_full() {
            Some(handler) => Response::App(handler(from, ask).await),
            None => Response::Failed("this agent is still starting".into()),
        }
    }

    /// Does what only the leader can do, or says who that is.
    async fn lead(&self, from: DeviceKey, request: ToLeader) -> Response {
        let known = *self.inner.leadership.borrow();
        if !known.is_leader {
            return Response::NotLeader(known.leader.filter(|&leader| leader != self.inner.id));
        }
        if self.apart().is_some() {
            return Response::NotLeader(None);
        }
        if let Some(refusal) = self.forbids(from, &request) {
            return refusal;
        }
        match request {
            ToLeader::Propose(txns) => Response::Proposed(self.apply_as_leader(txns, PROPOSE_TIMEOUT).await),
            ToLeader::ReadIndex => self.read_index().await,
            ToLeader::App(request) => self.answer_app(from, request).await,
            ToLeader::AddMember(member) => self.admit(member).await,
            ToLeader::RemoveMember(id) => self.expel(id).await,
            ToLeader::UpdateMember(id, member) => self.revise(id, member).await,
            ToLeader::Readmit(old, member) => self.readmit_as_leader(old, member).await,
            ToLeader::TransferTo(id) => self.hand_over(id).await,
            ToLeader::Observe => Response::Observed(Box::new(self.status())),
        }
    }

    async fn answer_app(&self, from: DeviceKey, request: Vec<u8>) -> Response {
        match self.inner.app.load_full() {
            Some(handler) => Response::App(handler(from, request).await),
            None => Response::Failed("this agent is still starting".into()),
        }
    }

    /// Asks the leader, whoever it is by then, until it answers or time is up.
    pub(super) async fn at_leader(&self, request: ToLeader, deadline: Instant) -> Option<Response> {
        let mut leadership = self.leadership();
        let me = self.key();
        loop {
            let known = *leadership.borrow_and_update();
            let left = deadline.saturating_duration_since(Instant::now());
            let ask = async {
                match known.leader {
                    Some(leader) if leader == self.inner.id => {
                        tokio::time::timeout(left, self.lead(me, request.clone())).await.ok()
                    }
                    Some(leader) => {
                        self.inner.peers.ask(leader, None, Request::Leader(request.clone()), left).await.ok()
                    }
                    None => None,
                }
            };
            let answer = tokio::select! {
                biased;
                answer = ask => answer,
                // The old leader may have done it: every such request may be asked twice.
                _ = leadership.wait_for(|now| *now != known) => None,
            };
            match answer {
                None | Some(Response::NotLeader(_) | Response::Failed(_)) => {}
                answer => return answer,
            }
            let now = Instant::now();
            if now >= deadline || self.inner.stop.is_cancelled() {
                return None;
            }
            let pause = (now + RETRY).min(deadline);
            pause_until(&mut leadership, known, pause).await;
        }
    }

    /// Sends a request of another room to the leader's handler (this device's own, when it leads).
    pub async fn ask_leader(&self, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, EngineError> {
        match self.at_leader(ToLeader::App(request), Instant::now() + timeout).await {
            Some(Response::App(answer)) => Ok(answer),
            _ => Err(self.unavailable(timeout)),
        }
    }

    /// Sends a request of another room to one member's handler.
    pub async fn ask(&self, member_id: u64, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, EngineError> {
        let failed = |reason: String| EngineError::Peer { peer: self.inner.peers.name(member_id), reason };
        let answer = if member_id == self.inner.id {
            self.answer_app(self.key(), request).await
        } else {
            let asked = self.inner.peers.ask(member_id, None, Request::App(request), timeout).await;
            asked.map_err(|error| failed(error.to_string()))?
        };
        match answer {
            Response::App(answer) => Ok(answer),
            Response::Failed(reason) => Err(failed(reason)),
            _ => Err(failed("the answer does not fit the question".into())),
        }
    }

    fn key(&self) -> DeviceKey {
        self.inner.peers.member(self.inner.id).map(|member| member.key).unwrap_or_default()
    }

    /// A change of the membership at the leader: the id that it is about, or why not.
    pub(super) async fn change_at_leader(&self, request: ToLeader) -> Result<u64, EngineError> {
        match self.at_leader(request, Instant::now() + MEMBERSHIP_TIMEOUT).await {
            Some(Response::Member(id)) => Ok(id),
            Some(Response::Refused(refusal)) => Err(refusal.into()),
            _ => Err(self.unavailable(MEMBERSHIP_TIMEOUT)),
        }
    }
}

/// Waits until a moment, or until the lead changes.
pub(super) async fn pause_until(leadership: &mut watch::Receiver<Leadership>, known: Leadership, until: Instant) {
    let changing = leadership.wait_for(|now| *now != known);
    let stopped = matches!(tokio::time::timeout_at(until, changing).await, Ok(Err(_)));
    if stopped {
        // Nobody tells of changes any more: asking again at once would only keep the processor busy.
        tokio::time::sleep_until(until).await;
    }
}

fn answer_vote<E: std::fmt::Display>(
    vote: Result<openraft::raft::VoteResponse<crate::storage::TypeConfig>, E>,
) -> Response {
    match vote {
        Ok(response) => Response::Vote(response),
        Err(error) => Response::Failed(error.to_string()),
    }
}

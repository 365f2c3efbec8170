//! Taking part, and being let in again. Each start of an agent is registered with the leader. A
//! device against which something speaks (its disk is an older image, it runs on other hardware,
//! the fleet went on without it in a new epoch, its log was damaged) asks any device it can reach,
//! and the leader decides: registered, a new member, or fenced because two copies of it run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::discovery::Discovery;
use super::peers::PeerAsk;
use super::reports::Reports;
use super::roll::{self, Known};
use super::tasks::Tasks;
use super::{End, keeper, recovery};
use crate::config::Config;
use crate::consensus::{Engine, Verdict};
use crate::identity::{DeviceKey, Enrolment, Epoch, Fingerprint, Identity, Member, Run, Switch};
use crate::resource::occurrence::Occurrence;
use crate::store::codec;
use crate::transport::Transport;

/// How long the leader listens whether another run of a device lives. More than two pauses of a
/// device that looks for its fleet.
const LISTEN: Duration = Duration::from_millis(2_500);
/// Signs that began their way before the question do not count.
const ON_THE_WAY: Duration = Duration::from_millis(100);
/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// How long a device waits for the leader's decision.
const DECIDE_WITHIN: Duration = Duration::from_secs(8);
/// Pause before the fleet is asked again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// How long a fence waits until its event is written.
const TELL_WITHIN: Duration = Duration::from_millis(500);

/// Why a device asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Why {
    /// Its agent started; nothing speaks against it.
    Start,
    /// Its data folder was last used on other hardware.
    Moved,
    /// Somebody knows a later run of it.
    OldRun,
    /// The fleet went on without it.
    OldEpoch,
    /// Its log was damaged and is set aside.
    Outcast,
}

/// A device asks to take part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) member: Member,
    pub(crate) run: Run,
    pub(crate) why: Why,
}

/// What the leader decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Decision {
    /// It takes part as this member.
    Registered,
    /// It is a new member, and begins without log and state.
    Admitted { id: u64, epoch: Epoch, members: BTreeMap<u64, Member> },
    /// Nobody with its key takes part.
    Fenced { reason: String },
    /// Not now, or not without a person.
    Refused { reason: String },
}

/// The leader's side.
#[derive(Clone)]
pub(crate) struct Gatekeeper {
    pub(crate) engine: Engine,
    pub(crate) reports: Arc<Reports>,
}

impl Gatekeeper {
    /// Answers a device that can not speak as a member: carries its question to the leader.
    pub(crate) async fn carry(&self, from: DeviceKey, request: Vec<u8>) -> Vec<u8> {
        let refused = |reason: String| Decision::Refused { reason };
        let decision = match codec::decode::<Ask>(&request) {
            Ok(ask) if ask.member.key == from => match codec::encode(&PeerAsk::Enter(ask)) {
                Ok(bytes) => match self.engine.ask_leader(bytes, DECIDE_WITHIN).await {
                    Ok(answer) => return answer,
                    Err(error) => refused(error.to_string()),
                },
                Err(error) => refused(error.to_string()),
            },
            Ok(_) => refused("the question is about another key".into()),
            Err(error) => refused(error.to_string()),
        };
        codec::encode(&decision).unwrap_or_default()
    }

    /// On the leader: decides. Asking twice leads to one decision.
    pub(crate) async fn decide(&self, ask: Ask) -> Decision {
        match self.try_decide(&ask).await {
            Ok(decision) => decision,
            Err(reason) => Decision::Refused { reason },
        }
    }

    async fn try_decide(&self, ask: &Ask) -> Result<Decision, String> {
        let everyone = roll::everyone(&self.engine)?;
        let known = everyone.get(&ask.member.key);
        if let Some(reason) = known.and_then(|(known, _)| known.fenced.clone()) {
            return Ok(Decision::Fenced { reason });
        }
        let members = self.engine.members().borrow().clone();
        let id = members.iter().find(|(_, member)| member.key == ask.member.key).map(|(id, _)| *id);
        let Some(id) = id else {
            return match known {
                Some((known, revision)) if known.former => self.readmit(ask, Some(*revision)).await,
                _ => Err(format!(
                    "{} is not a member of this fleet any more: kith leave --force on it, then kith join",
                    ask.member.name
                )),
            };
        };
        let registered = known.filter(|(known, _)| known.member_id == id).map(|(known, _)| known.run());
        let read_at = known.map(|(_, revision)| *revision);
        let latest = self.engine.latest_run(id).or(registered).unwrap_or_default();
        let mut why = ask.why;
        if why == Why::Start && ask.run != latest && ask.run.starts <= latest.starts {
            why = Why::OldRun;
        }
        match why {
            Why::Start if registered == Some(ask.run) => Ok(Decision::Registered),
            Why::Start => self.register(ask, id, read_at).await,
            Why::OldEpoch | Why::Outcast => self.readmit(ask, read_at).await,
            Why::Moved | Why::OldRun => {
                let twin = self.twin(id, ask.run).await;
                // The other copy may have been judged, or the device removed, while it was listened.
                if roll::everyone(&self.engine)?.get(&ask.member.key).map(|(_, revision)| *revision) != read_at {
                    return Err("the device's record changed meanwhile".into());
                }
                match twin {
                    Some(other) => self.fence(ask, id, other, read_at).await,
                    None if why == Why::Moved && (ask.run.starts > latest.starts || ask.run == latest) => {
                        self.register(ask, id, read_at).await
                    }
                    None => self.readmit(ask, read_at).await,
                }
            }
        }
    }

    /// Another run of the device that lives, after some listening.
    async fn twin(&self, id: u64, run: Run) -> Option<Run> {
        let asked = Instant::now();
        self.engine.note_run(id, run);
        while asked.elapsed() < LISTEN {
            if let Some(other) = self.engine.other_run_since(id, run, asked + ON_THE_WAY) {
                return Some(other);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    async fn register(&self, ask: &Ask, id: u64, read_at: Option<u64>) -> Result<Decision, String> {
        let known = Known::registered(&ask.member.name, id, ask.run);
        roll::write(&self.engine, &ask.member.key, &known, read_at).await?;
        Ok(Decision::Registered)
    }

    async fn readmit(&self, ask: &Ask, read_at: Option<u64>) -> Result<Decision, String> {
        let member = ask.member.clone();
        let id = self.engine.readmit(None, member.clone()).await.map_err(|error| error.to_string())?;
        let known = Known::registered(&member.name, id, ask.run);
        roll::write(&self.engine, &member.key, &known, read_at).await?;
        let what = match ask.why {
            Why::OldEpoch => "it came back from the epoch before the recovery",
            Why::Outcast => "its log was damaged and is set aside",
            _ => "its disk holds an older image of it",
        };
        let message = format!("{what}: it begins again as member {id}, and its old log and state are set aside there");
        self.tell(&member.name, "Readmitted", message);
        let mut members = (**self.engine.members().borrow()).clone();
        members.insert(id, member);
        Ok(Decision::Admitted { id, epoch: self.engine.stamp().epoch, members })
    }

    async fn fence(&self, ask: &Ask, id: u64, other: Run, read_at: Option<u64>) -> Result<Decision, String> {
        let name = &ask.member.name;
        let reason = format!("two copies of {name} run with one key ({} and {other})", ask.run);
        let mut known = Known::registered(name, id, self.engine.latest_run(id).unwrap_or(ask.run));
        known.fenced = Some(reason.clone());
        // The event first: this device may be one of the two.
        self.tell(name, "Cloned", format!("{reason}: neither takes part; {}", way_out(name)));
        tokio::time::timeout(TELL_WITHIN, self.reports.told()).await.ok();
        roll::write(&self.engine, &ask.member.key, &known, read_at).await?;
        tracing::error!(name, reason, "a device is fenced");
        Ok(Decision::Fenced { reason })
    }

    fn tell(&self, node: &str, reason: &'static str, message: String) {
        self.reports.event(about_node(node, reason, message));
    }
}

/// Something about a device that people should see.
pub(crate) fn about_node(node: &str, reason: &'static str, message: String) -> Occurrence {
    let involved = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(node.into()),
        uid: Some(node.into()),
        ..ObjectReference::default()
    };
    Occurrence { involved, warning: true, reason, message, component: "kith-agent", host: String::new() }
}

/// What to do about two copies.
pub(crate) fn way_out(name: &str) -> String {
    format!(
        "on another device: kith leave --device {name} --force; then on each copy: kith leave --force, and kith join with a new token"
    )
}

/// The device's side.
pub(crate) struct Applicant {
    pub(crate) engine: Engine,
    pub(crate) config: Arc<Config>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) enrolment: Enrolment,
    pub(crate) hardware: Fingerprint,
    pub(crate) ending: mpsc::Sender<End>,
}

impl Applicant {
    /// Starts everything by which this device finds its fleet and takes part in it.
    pub(crate) fn spawn(self, tasks: &Tasks, transport: Transport, reports: Arc<Reports>) {
        let discovery = Discovery {
            engine: self.engine.clone(),
            transport,
            config: self.config.clone(),
            fleet: self.enrolment.fleet.clone(),
            key: self.identity.key(),
        };
        tasks.spawn("find near devices", discovery.run());
        let (name, dir) = (self.enrolment.name.clone(), self.config.data_dir.clone());
        tasks.spawn("proclaim a recovery", recovery::proclaim(self.engine.clone(), reports, name, dir));
        tasks.spawn("take part", self.run());
    }

    /// Registers this run, and asks to be let in again whenever something speaks against it. Being
    /// dropped at any await is safe: the next start asks again.
    pub(crate) async fn run(self) {
        let mut verdict = self.engine.verdict();
        let mut registered = false;
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            let now = verdict.borrow_and_update().clone();
            let why = match &now {
                Verdict::Clear if registered => None,
                Verdict::Clear => Some(Why::Start),
                Verdict::Unproven { .. } if self.enrolment.outcast => Some(Why::Outcast),
                Verdict::Unproven { .. } => Some(Why::Moved),
                Verdict::OldEpoch { .. } => Some(Why::OldEpoch),
                Verdict::OldRun { .. } => Some(Why::OldRun),
                Verdict::Fenced { .. } => None,
            };
            let Some(why) = why else {
                if verdict.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // Cancel-safe: asking twice leads to one decision, and another doubt needs another question.
            let decision = tokio::select! {
                biased;
                changed = verdict.changed() => if changed.is_err() { return } else { continue },
                decision = self.ask(why) => decision,
            };
            match decision {
                Some(Decision::Registered) => {
                    registered = true;
                    self.settle_hardware();
                    self.engine.judge(Verdict::Clear);
                    continue;
                }
                Some(Decision::Admitted { id, epoch, members }) => match self.begin_again(id, epoch, members) {
                    Ok(()) => return drop(self.ending.send(End::Again).await),
                    Err(error) => tracing::error!(%error, "this device can not begin again as a new member"),
                },
                Some(Decision::Fenced { reason }) => {
                    self.engine.judge(Verdict::Fenced { reason });
                    continue;
                }
                Some(Decision::Refused { reason }) if reason != said => {
                    tracing::warn!(reason, ?why, "the fleet does not let this device in");
                    said = reason;
                }
                Some(Decision::Refused { .. }) | None => {}
            }
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                biased;
                changed = verdict.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The leader's decision; `None` when nobody could be asked.
    async fn ask(&self, why: Why) -> Option<Decision> {
        let known = self.enrolment.members.get(&self.enrolment.member_id)?;
        let member = keeper::own_member(&self.identity, &self.config, known);
        let ask = Ask { member, run: self.engine.stamp().run, why };
        if why == Why::Start {
            let request = codec::encode(&PeerAsk::Enter(ask)).ok()?;
            let answer = self.engine.ask_leader(request, DECIDE_WITHIN).await.ok()?;
            return codec::decode(&answer).ok();
        }
        let request = codec::encode(&ask).ok()?;
        let mut others = (*self.engine.members().borrow().clone()).clone();
        others.extend(self.enrolment.members.clone());
        others.extend((*self.engine.vouched().borrow().clone()).clone());
        others.retain(|_, member| member.key != self.identity.key());
        let mut refusal = None;
        for (id, other) in others {
            match self.engine.ask_to_enter(id, &other, request.clone(), DECIDE_WITHIN).await {
                Ok(answer) => match codec::decode(&answer) {
                    Ok(Decision::Refused { reason }) => refusal = Some(Decision::Refused { reason }),
                    Ok(decision) => return Some(decision),
                    Err(error) => tracing::debug!(%error, other = other.name, "an answer does not decode"),
                },
                Err(error) => tracing::debug!(%error, "asked to be let in"),
            }
        }
        refusal
    }

    fn settle_hardware(&self) {
        if let Err(error) = Run::settle(&self.config.data_dir, &self.hardware) {
            tracing::error!(%error, "the hardware of this device can not be written down");
        }
    }

    /// A new member without log and state, from the next start on. What it had is set aside.
    fn begin_again(
        &self,
        id: u64,
        epoch: Epoch,
        members: BTreeMap<u64, Member>,
    ) -> Result<(), crate::identity::IdentityError> {
        self.settle_hardware();
        let old = &self.enrolment;
        let aside = format!("epoch-{}-member-{}", old.epoch, old.member_id);
        let switch = Some(Switch { aside, staged: false });
        let (initial, revival) = (None, None);
        let next = Enrolment { member_id: id, epoch, members, switch, initial, revival, outcast: false, ..old.clone() };
        next.store(&self.config.data_dir)
    }
}

/// The verdict with which a device starts.
pub(crate) fn first_verdict(enrolment: &Enrolment, moved: bool, data_dir: &Path) -> Verdict {
    let folder = data_dir.display();
    match () {
        () if enrolment.outcast => Verdict::Unproven { why: "its log was damaged and is set aside".into() },
        // Nobody else is there to ask, or to be harmed.
        () if moved && enrolment.members.len() > 1 => Verdict::Unproven {
            why: format!("{folder} was last used on other hardware, and no leader has looked at this device since"),
        },
        () => Verdict::Clear,
    }
}

//! What the agent answers beside Kubernetes' own paths, under `/kith/v1`: requests and answers as
//! JSON, shared by the server and by `kith`. Data only: it decides nothing.
//!
//! | path | method | request | answer |
//! |---|---|---|---|
//! | `/kith/v1/status` | GET | | [`FleetStatus`] |
//! | `/kith/v1/settings` | GET | | a list of the agent's settings: `key`, `value`, `origin` |
//! | `/kith/v1/tokens` | GET | | [`TokenList`] |
//! | `/kith/v1/tokens` | POST | [`TokenAsk`] | [`TokenMade`] |
//! | `/kith/v1/tokens/<id>` | DELETE | | empty object |
//! | `/kith/v1/leave` | POST | [`LeaveAsk`] | [`LeaveDone`] |
//! | `/kith/v1/kubeconfig` | POST | [`KubeconfigAsk`] | [`KubeconfigParts`] |
//! | `/kith/v1/backup` | GET | | a backup file, streamed |
//! | `/kith/v1/recover` | GET | | [`RecoverView`] |
//! | `/kith/v1/recover` | POST | [`RecoverAsk`] | [`RecoverDone`] |
//! | `/kith/v1/plan` | POST | manifests, YAML, several documents | [`PlanAnswer`] |
//!
//! An answer that is not 2xx is a Kubernetes `Status`, as everywhere else.

use serde::{Deserialize, Serialize};

use crate::identity::Preference;

/// Path of [`FleetStatus`].
pub const STATUS: &str = "/kith/v1/status";
/// Path of the settings that the agent runs with.
pub const SETTINGS: &str = "/kith/v1/settings";
/// Path of the join tokens.
pub const TOKENS: &str = "/kith/v1/tokens";
/// Path on which this device leaves its fleet.
pub const LEAVE: &str = "/kith/v1/leave";
/// Path of a backup.
pub const BACKUP: &str = "/kith/v1/backup";
/// Path on which this device goes on alone.
pub const RECOVER: &str = "/kith/v1/recover";
/// Path of client certificates for `kubectl`.
pub const KUBECONFIG: &str = "/kith/v1/kubeconfig";
/// Path of the planner's dry run.
pub const PLAN: &str = "/kith/v1/plan";

/// The fleet as one device sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet's id; empty while this device is in none.
    pub fleet: String,
    /// The device that answers.
    pub device: String,
    /// Its member id.
    pub member_id: u64,
    /// Its version of Kith.
    pub version: String,
    /// Name of the device that leads, as far as this one knows.
    pub leader: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// Whether a quorum answered the leader lately: writes work.
    pub quorum: bool,
    /// Names of the devices that vote, sorted.
    pub voters: Vec<String>,
    /// The device whose knowledge of the others this is: the leader when it answered, else the
    /// device that was asked.
    #[serde(default)]
    pub observer: String,
    /// All members, sorted by name.
    pub devices: Vec<DeviceStatus>,
    /// The store's revision in this device's replica.
    pub revision: u64,
    /// Index of the last log entry that this replica applied.
    pub applied: u64,
    /// Hash of this replica's state at `revision`; equal on all devices at one revision.
    pub state_hash: String,
    /// Time since this device last heard from a leader, in milliseconds; 0 on the leader itself.
    pub knowledge_age_ms: u64,
    /// Why these devices vote and not others, as a sentence.
    pub why_voters: String,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

/// One member, as the device that answers sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name, and the name of its node.
    pub name: String,
    /// Its member id.
    pub member_id: u64,
    /// Its part in the log.
    pub role: DeviceRole,
    /// Whether its node is Ready.
    pub ready: bool,
    /// Where its peers reach it, `ADDRESS:PORT`, best first.
    pub addresses: Vec<String>,
    /// Log entries that it still misses; `None` when nobody who knows answered (only the leader does).
    pub lag: Option<u64>,
    /// How long ago the first of them was written, in milliseconds.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Time since the observer last heard it, in milliseconds; `None` when it never did.
    pub last_heard_ms: Option<u64>,
    /// Whether it wants to vote, as its label says: `auto`, `prefer` or `never`.
    #[serde(default)]
    pub preference: Preference,
    /// Why it does not vote; empty for one that does, and when nobody who knows answered.
    #[serde(default)]
    pub no_vote: String,
    /// Where it stands; empty when nobody said.
    #[serde(default)]
    pub zone: String,
    /// It only votes, and is no node.
    #[serde(default)]
    pub witness: bool,
    /// It takes no more pods, and does not lead.
    #[serde(default)]
    pub cordoned: bool,
    /// Pods bound to it.
    pub pods: u32,
}

/// A member's part in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceRole {
    /// Leads; it votes too.
    Leader,
    /// Votes.
    Voter,
    /// Keeps a replica without a vote, and can be given one at once.
    #[default]
    Learner,
    /// Keeps a replica that it gets from a device nearer to the leader.
    Mirror,
}

/// Something that is wrong with the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What, as a sentence.
    pub what: String,
    /// What to do or type about it.
    pub todo: String,
}

/// Asks for a join token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAsk {
    /// How long the token works.
    pub ttl_seconds: u64,
    /// How many devices may join with it.
    pub uses: u32,
    /// What its bearers become.
    pub role: TokenRole,
}

/// What the bearer of a token becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// A device that runs workloads; a witness may join with it too.
    #[default]
    Device,
    /// A witness: it votes and runs nothing.
    Witness,
}

/// A new token. Its secret is shown this once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// The whole token.
    pub token: String,
    /// What to type on the device that joins.
    pub join_command: String,
}

/// The tokens that the fleet knows, without their secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// Sorted by id.
    pub items: Vec<TokenSummary>,
}

/// One token without its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSummary {
    /// Its id: what `kith token revoke` takes.
    pub id: String,
    /// What its bearers become.
    pub role: TokenRole,
    /// When it stops working, RFC 3339.
    pub expires: String,
    /// How many devices may still join with it.
    pub uses_left: u32,
    /// Names of the devices that joined with it.
    pub used_by: Vec<String>,
}

/// Asks that a device leaves its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveAsk {
    /// Another device, which is gone for good: the fleet takes it off its list. Empty means the
    /// device that is asked.
    #[serde(default)]
    pub device: String,
    /// Leave although the fleet can not be told, or loses its quorum by it.
    pub force: bool,
}

/// This device is out of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveDone {
    /// The fleet that it left.
    pub fleet: String,
    /// What became of its pods and of its place, as a sentence.
    pub message: String,
}

/// What a recovery on the device that answers would keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverView {
    /// The fleet's id.
    pub fleet: String,
    /// This device, the one that would go on.
    pub device: String,
    /// The epoch that would end.
    pub epoch: u64,
    /// Whether a quorum answers: then there is nothing to recover.
    pub quorum: bool,
    /// Names of the devices that vote.
    pub voters: Vec<String>,
    /// Names of all other members: they would have to come back as new ones.
    pub others: Vec<String>,
    /// The leader that this device last knew.
    pub leader: Option<String>,
    /// Seconds since it was heard; `None` when not since this agent started.
    pub leader_heard_seconds: Option<u64>,
    /// Index of the last entry in this device's log: all of them would be kept.
    pub last_entry: Option<u64>,
    /// Index of the last entry that this device knows to be acknowledged.
    pub applied: Option<u64>,
    /// Revision of this device's replica.
    pub revision: u64,
    /// When the last write in this replica was made, RFC 3339.
    pub last_write: String,
    /// Whether this device votes: one that does not may be further behind.
    pub is_voter: bool,
}

/// Asks the device to go on alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverAsk {
    /// Although a quorum answers.
    #[serde(default)]
    pub force: bool,
}

/// The device goes on alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverDone {
    /// The new epoch.
    pub epoch: u64,
    /// What happened, as a sentence.
    pub message: String,
}

/// Asks for a client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigAsk {
    /// The certificate's CN.
    pub user: String,
    /// The certificate's O, one each.
    pub groups: Vec<String>,
    /// URL of the API; empty takes the answering device's own.
    pub server: String,
}

/// What a kubeconfig file is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigParts {
    /// Name of the fleet in the file.
    pub fleet: String,
    /// Name of the user in the file.
    pub user: String,
    /// URL of the API.
    pub server: String,
    /// The fleet's authority, PEM.
    pub authority: String,
    /// The user's certificate, PEM.
    pub certificate: String,
    /// The user's private key, PEM.
    pub key: String,
}

/// What the fleet would do with manifests, without doing it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// Revision of the state that was planned on.
    pub revision: u64,
    /// What would be written, in order.
    pub writes: Vec<PlannedWrite>,
    /// Why more would not happen.
    pub reasons: Vec<PlanReason>,
}

/// One write of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWrite {
    /// `create`, `update` or `delete`.
    pub verb: String,
    /// Kind with its group as in `apps/Deployment`.
    pub kind: String,
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What the write is for, as a phrase: `bind to d2: least requested`.
    pub why: String,
}

/// Why something would not happen, or not yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReason {
    /// What it is about: `Pod default/hello-1`.
    pub subject: String,
    /// Why, as a sentence.
    pub why: String,
}

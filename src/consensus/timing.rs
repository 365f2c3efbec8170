//! How long the engine waits for what, and how much it holds.

use std::time::Duration;

use openraft::{SnapshotPolicy, StepDownPolicy};

use crate::config::Profile;

/// A proposal that found no quorum by then is given up.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer a proposer waits for its own replica once the leader has applied the write.
pub(super) const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// A read that found no quorum by then is stale.
pub(super) const BARRIER_TIMEOUT: Duration = Duration::from_millis(1500);
/// A change of the membership that did not happen by then is given up.
pub(super) const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries when nobody leads.
pub(super) const RETRY: Duration = Duration::from_millis(50);

/// Entries after which a snapshot lets the log be purged.
const SNAPSHOT_ENTRIES: u64 = 8192;
/// Entries kept behind a snapshot for peers that are a little late.
const KEEP_ENTRIES: u64 = 2048;
/// Bytes of log after which it is purged whatever the number of entries.
pub(super) const MAX_LOG_BYTES: u64 = 64 << 20;

/// With less free space than this on its disk, a leader takes no more writes.
pub(super) const MIN_FREE_BYTES: u64 = 16 << 20;

/// With less, a device takes no entries and no snapshots: twice what the log keeps free for the
/// state, because a message that passed may have as many bytes.
pub(super) const MIN_FREE_BYTES_TO_FOLLOW: u64 = 8 << 20;

/// With less, a device gives no vote, which must be on the disk before it is given.
pub(super) const MIN_FREE_BYTES_TO_VOTE: u64 = 256 << 10;

/// The timing of one profile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    heartbeat: Duration,
    election: (Duration, Duration),
    beacon: Option<Duration>,
}

impl Timing {
    pub(super) fn new(profile: Profile) -> Self {
        Self { heartbeat: profile.heartbeat(), election: profile.election(), beacon: profile.beacon() }
    }

    /// Between two heartbeats.
    pub(super) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Silence of a leader before which nobody stands for election, however the chance falls.
    pub(super) fn lease(&self) -> Duration {
        self.election.1
    }

    /// How old a peer's acknowledgement may be for a heartbeat to be left out: with the next
    /// heartbeat it would still be younger than a beacon.
    pub(super) fn quiet(&self) -> Option<Duration> {
        self.beacon.map(|beacon| beacon.saturating_sub(self.heartbeat))
    }

    /// Silence of a quorum after which a leader asks before it acts.
    pub(super) fn confirmed_within(&self) -> Duration {
        self.heartbeat * 2 + self.election.0
    }

    /// Silence after which a peer counts as not answering.
    pub(super) fn alive_within(&self) -> Duration {
        (self.election.1 * 2).max(self.beacon.unwrap_or_default() + self.election.1)
    }

    /// How long a member must be connected without a gap before it may vote.
    pub(super) fn steady_after(&self) -> Duration {
        self.election.1 * 2
    }

    /// Silence after which a voter is replaced.
    pub(super) fn lost_after(&self) -> Duration {
        self.election.1 * 10
    }

    /// Silence after which nobody waits for an answer any more.
    pub(super) fn given_up_after(&self) -> Duration {
        self.election.1 * 4
    }

    /// Time for one append from which on a disk counts as slow.
    pub(super) fn slow_disk(&self) -> Duration {
        (self.heartbeat / 2).min(Duration::from_millis(500))
    }

    /// Between two looks of the pilot.
    pub(super) fn pilot(&self) -> Duration {
        self.heartbeat * 5
    }

    /// How long entries may take to reach a peer's disk.
    pub(super) fn append(&self) -> Duration {
        self.election.1.max(Duration::from_secs(1))
    }

    /// How long news of a commit may wait for entries to travel with.
    pub(super) fn patience(&self) -> Duration {
        self.heartbeat / 50
    }

    /// How long handing over the lead may take.
    pub(super) fn transfer(&self) -> Duration {
        self.election.1 * 3
    }

    /// openraft's settings.
    pub(super) fn raft(&self) -> openraft::Config {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "kith".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: millis(self.election.1),
            max_payload_entries: 256,
            max_append_entries: Some(512),
            replication_lag_threshold: SNAPSHOT_ENTRIES + KEEP_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
            max_in_snapshot_log_to_keep: KEEP_ENTRIES,
            purge_batch_size: 256,
            api_channel_size: Some(512),
            api_batch_capacity: 256,
            notification_channel_size: Some(1024),
            state_machine_channel_size: Some(64),
            removed_leader_step_down: StepDownPolicy::After(150),
            enable_pre_vote: Some(true),
            // A leader that a quorum does not hear falls silent, so that those who hear each other
            // can elect another one.
            quorum_loss_probe_interval: Some(millis(self.election.1 * 3)),
            // The state may be older than what was acknowledged before a power cut: no leading
            // before an election.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
    }
}

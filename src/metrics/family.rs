//! Every number by its name. The page `docs/metrics.md` is printed from this table.

/// How numbers of a family behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They grow until the agent starts again.
    Counter,
    /// They go up and down.
    Gauge,
    /// Counts of what took how long.
    Histogram,
}

/// Numbers of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Such as `kith_store_documents`.
    pub name: &'static str,
    /// How they behave.
    pub kind: Kind,
    /// What tells them apart.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! families {
    ($($family:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $family: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them, in the order in which they are shown.
        pub const ALL: &[Family] = &[$($family),*];
    };
}

families! {
    BUILD_INFO: Gauge "kith_build_info" ["version", "arch"] "Release and processor of the agent; always 1.";
    DEVICE_INFO: Gauge "kith_device_info" ["device", "member", "fleet"] "Name, member id and fleet of this device; always 1.";
    UPTIME: Gauge "kith_agent_uptime_seconds" [] "Time since the agent started, by a clock that nobody sets.";
    CPU: Counter "kith_agent_cpu_seconds_total" [] "Processor time that the agent used, without its containers.";
    MEMORY: Gauge "kith_agent_memory_bytes" ["kind"] "Memory of the agent: resident, and proportional (shared pages divided among those who share them).";
    OPEN_FILES: Gauge "kith_agent_open_files" [] "Open file descriptors of the agent.";
    OPEN_FILES_LIMIT: Gauge "kith_agent_open_files_limit" [] "Most file descriptors that the agent may have.";
    THREADS: Gauge "kith_agent_threads" [] "Threads of the agent.";
    TASKS: Gauge "kith_agent_tasks" [] "Tasks of the agent that have not ended.";
    AGENT_WRITTEN: Counter "kith_agent_written_bytes_total" [] "Bytes that the agent caused to be written to disks, page by page, as the kernel counts them.";
    AGENT_READ: Counter "kith_agent_read_bytes_total" [] "Bytes that the agent caused to be read from disks.";

    TERM: Gauge "kith_raft_term" [] "The term of the leader that this device follows.";
    IS_LEADER: Gauge "kith_raft_is_leader" [] "1 on the device that leads.";
    HAS_LEADER: Gauge "kith_raft_has_leader" [] "1 while this device knows a leader.";
    LEADER_INFO: Gauge "kith_raft_leader_info" ["leader"] "The leader's name as this device knows it; always 1.";
    IS_VOTER: Gauge "kith_raft_is_voter" [] "1 on a device that votes.";
    LAST_LOG: Gauge "kith_raft_last_log_index" [] "Index of the last entry in this device's log.";
    APPLIED: Gauge "kith_raft_applied_index" [] "Index of the last entry in this device's state.";
    COMMITS: Histogram "kith_raft_commit_duration_seconds" [] "Time from a write on this device until it was committed and could be read here.";
    FAILED_PROPOSALS: Counter "kith_raft_failed_proposals_total" [] "Writes of this device that no leader took in time.";
    ELECTIONS_WON: Counter "kith_raft_elections_won_total" [] "Times that this device became the leader.";
    LEADER_CHANGES: Counter "kith_raft_leader_changes_total" [] "Times that this device saw another leader than before.";
    PEER_LAG: Gauge "kith_raft_peer_lag_entries" ["peer"] "On the leader: entries that a member is behind.";
    PEER_SILENCE: Gauge "kith_raft_peer_silence_seconds" ["peer"] "On the leader: time since a member answered.";
    LEADER_SILENCE: Gauge "kith_raft_leader_silence_seconds" [] "Time since the leader was heard; 0 on the leader, absent when none was heard.";
    STOPPED: Gauge "kith_raft_stopped" [] "1 when the consensus of this device has stopped, as on a full disk; only reads are served then.";

    MEMBERS: Gauge "kith_fleet_members" ["role"] "Members of the fleet that are voter, learner or mirror.";
    DEVICES: Gauge "kith_fleet_devices" ["ready"] "On the leader: devices of the fleet by whether they are ready.";
    FLEET_PODS: Gauge "kith_fleet_pods" ["phase"] "On the leader: pods of the fleet by phase.";

    REVISION: Gauge "kith_store_revision" [] "Revision of this device's replica.";
    DOCUMENTS: Gauge "kith_store_documents" [] "Objects in this device's replica.";
    STORE_BYTES: Gauge "kith_store_bytes" ["file"] "Bytes on disk of the log and of the state.";
    FREE_BYTES: Gauge "kith_store_free_bytes" [] "Bytes that the disk of the log and the state has left.";
    RING_EVENTS: Gauge "kith_store_ring_events" [] "Latest changes that are kept for those who watch.";
    RING_BYTES: Gauge "kith_store_ring_bytes" [] "Bytes of these changes.";
    WATCHES: Gauge "kith_store_watches" [] "Clients that watch on this device.";

    DISK_WRITTEN: Counter "kith_disk_written_bytes_total" ["file"] "Bytes written to the log, the state and other files of the store, before the disk makes pages of them.";
    DISK_SYNCS: Histogram "kith_disk_sync_duration_seconds" ["file"] "Time that an fsync of the log, the state or another file of the store took.";

    LINK_BYTES: Counter "kith_link_bytes_total" ["peer", "direction"] "Bytes of UDP payload that went to and came from another device.";
    LINK_CONNECTED: Gauge "kith_link_connected" ["peer"] "1 while a connection to a device that was heard before is up.";
    LINK_ROUND_TRIP: Gauge "kith_link_round_trip_seconds" ["peer"] "Round-trip time to another device, as last measured.";

    REQUESTS: Counter "kith_api_requests_total" ["verb", "resource", "code"] "Requests to this device's API by what was asked and the code of the answer.";
    REQUEST_TIMES: Histogram "kith_api_request_duration_seconds" ["verb"] "Time until a request to this device's API was answered; without watches and streams.";
    CONNECTIONS: Gauge "kith_api_connections" [] "Open connections of this device's API.";

    PODS: Gauge "kith_pods" ["phase"] "Pods that are bound to this device, by phase.";
    STARTS: Counter "kith_container_starts_total" [] "Containers that were started on this device.";
    RESTARTS: Counter "kith_container_restarts_total" [] "Containers that were started again after an end.";
    PROBE_FAILURES: Counter "kith_probe_failures_total" ["probe"] "Failed probes of containers on this device.";
    ROUNDS: Histogram "kith_reconciler_round_duration_seconds" [] "Time that a sweep of this device's pods took, with what it did.";
    ACTIONS: Counter "kith_reconciler_actions_total" [] "Things that the sweeps found to do.";
    PLANS: Histogram "kith_planner_run_duration_seconds" [] "Time that the planner took to decide, while this device led.";
    PLANNED: Counter "kith_planner_batches_total" [] "Batches of writes that the planner asked for.";

    IMAGES: Gauge "kith_images" [] "Images on this device.";
    IMAGE_BYTES: Gauge "kith_image_bytes" [] "Bytes of their parts as stored, each part once.";
    PULLS: Counter "kith_image_pulls_total" ["result"] "Pulls of images that ended, by what came of them.";
    PULLED_BYTES: Counter "kith_image_pulled_bytes_total" [] "Bytes that pulls brought.";
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut seen = std::collections::BTreeSet::new();
        for family in ALL {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert!(family.name.starts_with("kith_"), "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{}", family.name);
        }
    }

    const BEGIN: &str =
        "<!-- Printed from src/metrics/family.rs: KITH_WRITE_DOCS=1 cargo nextest run metrics_page -->\n";

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the page is a file of the repository")]
    fn metrics_page() {
        let path = "docs/metrics.md";
        let page = std::fs::read_to_string(path).unwrap();
        let (text, _) = page.split_once(BEGIN).unwrap();
        let mut wanted = format!("{text}{BEGIN}\n| name | type | labels | what it is |\n|---|---|---|---|\n");
        for family in ALL {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(wanted, "| `{}` | {kind} | {} | {} |", family.name, labels.join(", "), family.help);
        }
        if std::env::var_os("KITH_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
            return;
        }
        assert!(page == wanted, "{path} is out of date: KITH_WRITE_DOCS=1 cargo nextest run metrics_page");
    }
}

//! Mistakes that are built in on purpose, one at a time: a simulation that does not find them would
//! not find others. The same seeds find nothing without the mistake.

use kith::storage::seeded::Bug;

use super::schedule::{Plan, Style};
use super::{failed, simulate, simulate_with};

/// A mistake that these many runs do not show is not found.
const SEEDS: u64 = 40;

/// Finds a mistake by a kind of trouble, and by words in what is said about it.
fn finds(bug: Bug, style: Style, signs: &[&str]) {
    for seed in 1..=SEEDS {
        let plan = Plan::hunt(seed, style);
        let Err(reason) = simulate_with(plan.clone(), Some(bug)) else { continue };
        println!("{bug:?} was found by seed {seed}: {}", reason.lines().next().unwrap_or_default());
        assert!(signs.iter().any(|sign| reason.contains(sign)), "{bug:?} shows as something else: {reason}");
        if let Err(reason) = simulate(plan.clone()) {
            panic!("without the mistake, too: {}", failed(&plan, &reason));
        }
        return;
    }
    panic!("{bug:?} was not found by {SEEDS} seeds");
}

#[test]
fn an_acknowledgement_before_fsync_is_found() {
    finds(
        Bug::AcknowledgeBeforeFsync,
        Style::Power,
        &[
            "where others applied",
            "acknowledged at revision",
            "not linearizable",
            "without the committed entry",
            "other entries before it",
            "was safe in its state",
            "its consensus stopped",
            "panicked",
        ],
    );
}

#[test]
fn a_split_applied_index_is_found() {
    finds(
        Bug::SplitAppliedIndex,
        Style::Power,
        &["not together", "differ at revision", "acknowledged at revision", "not linearizable"],
    );
}

#[test]
fn a_commit_without_quorum_is_found() {
    finds(
        Bug::CommitWithoutQuorum,
        Style::Links,
        &[
            "where others applied",
            "acknowledged at revision",
            "not linearizable",
            "without the committed entry",
            "other entries before it",
            "its consensus stopped",
            "panicked",
        ],
    );
}

#[test]
fn a_reused_member_id_is_found() {
    finds(Bug::ReusedMemberId, Style::Churn, &["was handed out twice"]);
}

#[test]
fn a_stale_read_is_found() {
    finds(Bug::StaleRead, Style::Links, &["not linearizable"]);
}

#[test]
fn a_creation_that_is_not_atomic_is_found() {
    finds(Bug::NonAtomicCreation, Style::Power, &["does not start"]);
}

#[test]
fn a_retry_that_is_a_new_transaction_is_found() {
    finds(Bug::RetryAnew, Style::Links, &["was written at revision", "acknowledged at revision", "not linearizable"]);
}

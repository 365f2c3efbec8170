#![expect(clippy::disallowed_methods, reason = "a test draws its seed")]

use std::sync::Arc;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Sizes;
use crate::resource::Timestamp;
use crate::storage::disk::{Disk, RealDisk};
use crate::storage::{Command, Entry, LogId, Reply};
use crate::store::memory::Memory;
use crate::store::{Batch, Check, Key, Precondition, Txn, Write};

fn key(random: &mut SmallRng) -> Key {
    let kinds = ["Test", "Tes", "Test0"];
    let namespaces = ["", "a", "ab", "b"];
    let name = format!("doc-{}", random.random_range(0..40));
    Key::new(kinds[random.random_range(0..3)], namespaces[random.random_range(0..4)], name)
}

fn txn(random: &mut SmallRng, sequences: &mut [u64; 5]) -> Txn {
    let client = random.random_range(0..5_usize);
    let next = sequences[client];
    // Now and then one is sent again.
    let sequence =
        if next > 0 && random.random_ratio(1, 8) { random.random_range(next.saturating_sub(9)..next) } else { next };
    sequences[client] = next.max(sequence + 1);
    let writes = (0..random.random_range(1..4)).map(|_| {
        let key = key(random);
        if random.random_ratio(1, 3) {
            Write::Delete { key }
        } else {
            Write::Put { key, body: random.random_range(0..1000_u32).to_string().into_bytes() }
        }
    });
    let writes = writes.collect();
    let checks = if random.random_ratio(1, 4) {
        vec![Check { key: key(random), expect: Precondition::Absent }]
    } else {
        Vec::new()
    };
    let settled = sequence.saturating_sub(random.random_range(0..12));
    Txn { client: client as u64, sequence, settled, at: Timestamp(sequence), batch: Batch { checks, writes } }
}

/// Whatever part of it is in memory and whatever in the file, the state is the same.
#[tokio::test]
async fn the_state_reads_as_if_all_of_it_were_in_one_place() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    // Small, so that transactions of the file are under way most of the time.
    let recent = Sizes { entries: 20, bytes: 1 << 10, kept: 1 << 8 };
    let sizes = crate::storage::sizes::Sizes { recent, ..Default::default() };
    let open = || crate::storage::open_sized(&disk, dir.path(), sizes).unwrap().1.state().clone();
    let mut state = open();
    let (mut model, mut sequences, mut index) = (Memory::new(), [0; 5], 0);
    for _ in 0..400 {
        let txns: Vec<Txn> = (0..random.random_range(1..12)).map(|_| txn(&mut random, &mut sequences)).collect();
        let entries: Vec<Entry> = txns
            .iter()
            .map(|txn| {
                index += 1;
                let log_id = LogId::new(openraft::vote::RaftLeaderId::new(1, 1), index);
                Entry::new(log_id, EntryPayload::Normal(Command::Txn(txn.clone())))
            })
            .collect();
        let replies = state.apply(&entries).await.unwrap();
        for (txn, reply) in txns.iter().zip(replies) {
            let Ok((outcome, _)) = crate::store::apply(&mut model, txn);
            assert_eq!(reply, Reply::Outcome(outcome), "seed {seed}: {txn:?}");
        }
        match random.random_range(0..40) {
            0 => state.make_durable().await.unwrap(),
            1 => {
                // A stop that is no crash.
                state.settle().await.unwrap();
                drop(state);
                state = open();
            }
            _ => {}
        }
        let wanted = key(&mut random);
        assert_eq!(state.get(&wanted).unwrap().as_ref(), model.get(&wanted), "seed {seed}");
        let namespace = random.random_bool(0.5).then_some(wanted.namespace.as_str());
        let expected: Vec<_> = model.list(&wanted.kind, namespace).cloned().collect();
        assert_eq!(state.list(&wanted.kind, namespace).unwrap(), (model.revision(), expected), "seed {seed}");
        assert_eq!(state.hash().unwrap(), model.hash(), "seed {seed}");
        assert_eq!(state.applied_state().unwrap().0.map(|at| at.index), Some(index), "seed {seed}");
    }
}

//! Writers on every device while devices lose power, lose the network, and lose answers. What was
//! acknowledged is there, once, on all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fleet::{Fleet, doc, member, put};
use crate::consensus::{Engine, ProposeError, Replica};
use crate::store::{Batch, Check, Outcome, Precondition};

const DEVICES: u64 = 4;
const ROUNDS: u32 = 8;

/// What a writer knows of the number that it counts up.
#[derive(Debug, Default)]
struct Count {
    acknowledged: u64,
    /// Writes whose outcome nobody knows.
    unknown: u64,
}

/// Counts up one document of its own through one device until told to stop or the device stops.
async fn count(engine: Engine, name: String, mut count: Count, stop: Arc<AtomicBool>) -> Count {
    while !stop.load(Ordering::Relaxed) {
        // Its own replica shows all that it had acknowledged, but perhaps not what is unknown.
        let Ok(found) = engine.get(&doc(&name)) else { break };
        let value: u64 = found.as_ref().map_or(0, |found| String::from_utf8_lossy(&found.body).parse().unwrap());
        let expect = found.map_or(Precondition::Absent, |found| Precondition::AtRevision(found.modified));
        let batch = Batch {
            checks: vec![Check { key: doc(&name), expect }],
            writes: put(&name, &(value + 1).to_string()).writes,
        };
        match engine.propose(batch).await {
            Ok(Outcome::Applied { .. }) => count.acknowledged += 1,
            // An unknown write was applied after all.
            Ok(Outcome::Refused { .. }) => assert!(count.unknown > 0, "{name}: nobody else writes here"),
            Err(ProposeError::Stopping | ProposeError::Storage(_)) => {
                count.unknown += 1;
                break;
            }
            Err(_) => count.unknown += 1,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    count
}

fn seed() -> u64 {
    std::env::var("KITH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7)
}

#[tokio::test]
async fn acknowledged_writes_survive_a_storm_once() {
    let seed = seed();
    println!("replay with: KITH_SEED={seed} cargo nextest run acknowledged_writes_survive");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::new();
    fleet.bootstrap().await;
    for _ in 1..DEVICES {
        fleet.join().await;
    }
    fleet.voters(&[1, 2, 3]).await;

    let mut counts: Vec<Count> = (0..DEVICES).map(|_| Count::default()).collect();
    for _ in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = counts
            .drain(..)
            .zip(1..=DEVICES)
            .map(|(known, id)| tokio::spawn(count(fleet.engine(id), format!("count-{id}"), known, stop.clone())))
            .collect();
        let victim = random.random_range(1..=DEVICES);
        let trouble = random.random_range(0..4);
        let pause = Duration::from_millis(random.random_range(100..900));
        tokio::time::sleep(pause).await;
        match trouble {
            0 => fleet.lose_power(victim).await,
            1 => fleet.stop(victim).await,
            2 => fleet.cut(victim),
            _ => fleet.weather.lock().unwrap().lose_answers = 30,
        }
        tokio::time::sleep(pause).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            counts.push(writer.await.unwrap());
        }
        fleet.weather.lock().unwrap().lose_answers = 0;
        fleet.heal(victim);
        if !fleet.is_running(victim) {
            fleet.start(victim).await;
        }
        let ids: Vec<u64> = (1..=DEVICES).collect();
        fleet.leader_among(&ids).await;
        fleet.same_state(&ids, Duration::from_secs(20)).await;
    }

    for (id, count) in (1..=DEVICES).zip(&counts) {
        let found = fleet.engine(id).get(&doc(&format!("count-{id}"))).unwrap().unwrap();
        let value: u64 = String::from_utf8_lossy(&found.body).parse().unwrap();
        println!("{}: {value} counted, {count:?}", member(id).name);
        assert!(value >= count.acknowledged, "an acknowledged write is lost: {value}, {count:?}");
        assert!(value <= count.acknowledged + count.unknown, "a write was applied twice: {value}, {count:?}");
        assert!(count.acknowledged > 20, "the storm left no room to write: {count:?}");
    }
    fleet.stop_all().await;
}

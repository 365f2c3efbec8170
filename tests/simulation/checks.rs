//! What must hold at every moment, whatever happened: it follows the logs of all devices, applies
//! what was committed to a store of its own, and compares.

use std::collections::BTreeMap;

use kith::consensus::{Engine, Probe};
use kith::identity::DeviceKey;
use kith::storage::{Command, Entry, LogId};
use kith::store::memory::Memory;
use kith::store::{Change, apply, codec};
use openraft::EntryPayload;

use super::client::{self, Book};
use super::linearizable::{self, Value};
use super::network::Host;
use super::trace::digest;

/// An entry of a log: who wrote it, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    at: LogId,
    digest: u64,
}

/// One start of a device, as far as it was followed.
#[derive(Clone, Debug, Default)]
struct Followed {
    run: u64,
    applied: Option<u64>,
    /// Up to where its log was read.
    read: Option<u64>,
    vote: (u64, u64),
}

/// Knows everything that was committed.
#[derive(Default)]
pub struct Oracle {
    committed: Vec<Line>,
    /// Every entry seen in any log, by leader and index: what it says, and what stands before it.
    written: BTreeMap<(u64, u64, u64), (u64, Option<LogId>)>,
    state: Memory,
    /// Values that took effect, and at which revision.
    effects: BTreeMap<Value, u64>,
    owed: Vec<(Value, u64)>,
    hashes: BTreeMap<u64, ([u8; 32], u64)>,
    owners: BTreeMap<u64, DeviceKey>,
    leaders: BTreeMap<(u64, u64), (u64, u64)>,
    followed: BTreeMap<u64, Followed>,
    /// What a device had safe when it lost its power.
    durable: BTreeMap<u64, Option<u64>>,
    pub looks: u64,
}

type Verdict<T = ()> = Result<T, String>;

fn index(entry: &Entry) -> u64 {
    entry.log_id.index
}

impl Oracle {
    /// Looks at every device that has power, and at what the clients wrote down.
    pub async fn look(&mut self, hosts: &[Host], book: &Book, deep: bool) -> Verdict {
        self.looks += 1;
        if let Some(violation) = book.violation() {
            return Err(violation);
        }
        for host in hosts {
            self.follow(host).await.map_err(|reason| format!("device {}: {reason}", host.number))?;
        }
        if deep {
            for host in hosts {
                self.compare_state(host.number, &host.engine)?;
            }
        }
        self.settle_debts(book, false)?;
        for (number, calls) in book.histories(false) {
            check_history(number, &calls)?;
        }
        Ok(())
    }

    /// A device is about to lose its power, or has lost it: what was safe must be there afterwards.
    pub fn power_lost(&mut self, number: u64, probe: &Probe) {
        self.durable.insert(number, probe.durable);
    }

    async fn follow(&mut self, host: &Host) -> Verdict {
        if host.dead.is_cancelled() {
            return Ok(());
        }
        let probe = host.engine.probe();
        if let Some(failure) = &probe.failure {
            // A disk that lost its power in the middle of this look says so here first.
            return if host.dead.is_cancelled() { Ok(()) } else { Err(format!("its consensus stopped: {failure}")) };
        }
        let known = self.followed.entry(host.number).or_default();
        if known.run != host.run {
            *known = Followed { run: host.run, ..Followed::default() };
            let safe = self.durable.remove(&host.number).flatten();
            if probe.applied < safe {
                return Err(format!("entry {safe:?} was safe in its state, and now it has only {:?}", probe.applied));
            }
        }
        if probe.applied < known.applied {
            return Err(format!("its state went back from entry {:?} to {:?}", known.applied, probe.applied));
        }
        if probe.vote < known.vote {
            return Err(format!("its vote went back from {:?} to {:?}", known.vote, probe.vote));
        }
        known.vote = probe.vote;
        let read = known.read;
        known.applied = probe.applied;
        if self.read_log(host, &probe, read).await? {
            self.followed.entry(host.number).or_default().read = probe.applied;
        }
        if probe.leads { self.note_leader(host, &probe) } else { Ok(()) }
    }

    /// Reads on in its log; false when it forgot entries that nobody else was seen to apply yet.
    async fn read_log(&mut self, host: &Host, probe: &Probe, read: Option<u64>) -> Verdict<bool> {
        let first = read.unwrap_or(0);
        let entries = match host.engine.log_entries(first).await {
            Ok(entries) => entries,
            Err(_) if host.dead.is_cancelled() => return Ok(false),
            Err(error) => return Err(format!("its log from entry {first} on can not be read: {error}")),
        };
        let mut before: Option<LogId> = None;
        for entry in &entries {
            let line = Line { at: entry.log_id, digest: digest(&codec::encode(entry).unwrap()) };
            self.match_logs(&line, before)?;
            before = Some(line.at);
            if Some(index(entry)) <= probe.applied {
                if index(entry) > self.committed.len() as u64 {
                    return Ok(false);
                }
                self.commit(entry, line)?;
            }
        }
        Ok(probe.applied.is_none_or(|applied| applied < self.committed.len() as u64))
    }

    /// Two logs that have an entry of the same leader at the same index have the same entries up to it.
    fn match_logs(&mut self, line: &Line, before: Option<LogId>) -> Verdict {
        let leader = line.at.committed_leader_id();
        let known = self.written.entry((leader.term, leader.node_id, line.at.index)).or_insert((line.digest, before));
        known.1 = known.1.or(before);
        let fits = known.0 == line.digest && (before.is_none() || known.1 == before);
        if fits {
            Ok(())
        } else {
            Err(format!("its log has another entry {} than others, or other entries before it", line.at))
        }
    }

    /// An entry that a device applied: all devices apply the same one there.
    fn commit(&mut self, entry: &Entry, line: Line) -> Verdict {
        let at = usize::try_from(index(entry)).unwrap();
        if let Some(known) = self.committed.get(at) {
            if *known == line {
                return Ok(());
            }
            return Err(format!("it applied entry {} where others applied {}", line.at, known.at));
        }
        self.committed.push(line);
        match &entry.payload {
            EntryPayload::Normal(Command::Txn(txn)) => {
                let Ok((_, events)) = apply(&mut self.state, txn);
                for event in events.iter().filter(|event| event.change != Change::Deleted) {
                    let Some(value) = client::value(&event.body) else { continue };
                    if let Some(first) = self.effects.insert(value, event.revision) {
                        return Err(format!("value {value} was written at revision {first} and at {}", event.revision));
                    }
                }
            }
            EntryPayload::Membership(membership) => {
                for (&id, member) in membership.nodes() {
                    let owner = *self.owners.entry(id).or_insert(member.key);
                    if owner != member.key {
                        return Err(format!("member id {id} was handed out twice: to {owner:?} and {:?}", member.key));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A leader's name is used once, and its log has everything that was committed before it.
    fn note_leader(&mut self, host: &Host, probe: &Probe) -> Verdict {
        let me = (host.number, host.run);
        let known = *self.leaders.entry(probe.vote).or_insert(me);
        if known != me {
            return Err(format!("it leads as {:?}, and so did start {} of device {}", probe.vote, known.1, known.0));
        }
        let Some(last) = self.committed.last() else { return Ok(()) };
        let by = last.at.committed_leader_id();
        if (by.term, by.node_id) < probe.vote && probe.last_log < Some(last.at.index) {
            return Err(format!("it leads as {:?} without the committed entry {}", probe.vote, last.at));
        }
        Ok(())
    }

    /// Equal hashes at equal revisions, on all devices and in the oracle's own store.
    fn compare_state(&mut self, number: u64, engine: &Engine) -> Verdict {
        let Ok(hash) = engine.state_hash_now() else { return Ok(()) };
        if hash.revision == self.state.revision() {
            let expected = self.state.hash().digest;
            self.hashes.insert(hash.revision, (expected, 0));
        }
        let (expected, other) = *self.hashes.entry(hash.revision).or_insert((hash.digest, number));
        if expected != hash.digest {
            let other = if other == 0 { "the log".to_owned() } else { format!("device {other}") };
            return Err(format!("device {number} and {other} differ at revision {}", hash.revision));
        }
        while self.hashes.len() > 4096 {
            self.hashes.pop_first();
        }
        Ok(())
    }

    /// Every acknowledged write took effect, once, at its revision.
    pub fn settle_debts(&mut self, book: &Book, all: bool) -> Verdict {
        self.owed.extend(book.acknowledged());
        let known = self.state.revision();
        for (value, revision) in std::mem::take(&mut self.owed) {
            if revision > known && !all {
                self.owed.push((value, revision));
            } else if self.effects.get(&value) != Some(&revision) {
                let found = self.effects.get(&value);
                return Err(format!("value {value} was acknowledged at revision {revision} and written at {found:?}"));
            }
        }
        Ok(())
    }

    /// In the end nobody may have applied entries that no log showed.
    pub fn all_read(&self, hosts: &[Host]) -> Verdict {
        let unread = |host: &&Host| {
            let applied = host.engine.probe().applied;
            applied.is_some_and(|applied| applied >= self.committed.len() as u64)
        };
        match hosts.iter().find(unread) {
            Some(host) => Err(format!("no log shows all that device {} applied", host.number)),
            None => Ok(()),
        }
    }

    /// Revision of everything committed, and how many entries that took.
    pub fn progress(&self) -> (u64, usize) {
        (self.state.revision(), self.committed.len())
    }
}

/// A history that no single copy of the key could have is a violation.
pub fn check_history(number: u64, calls: &[linearizable::Call]) -> Verdict {
    if linearizable::check(calls) {
        return Ok(());
    }
    let calls: Vec<String> = calls.iter().map(|call| format!("  {call:?}")).collect();
    Err(format!("the calls of key {number} are not linearizable:\n{}", calls.join("\n")))
}

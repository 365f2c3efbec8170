//! Power cuts at every write of a life of a log and a state. It decides what must be there after
//! each: what was acknowledged, the old or the new of what was under way, and nothing else. A
//! seed decides the life and what each cut leaves.

use std::path::Path;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};

use super::simdisk::{SimDisk, splitmix};
use super::sizes::Sizes;
use super::{Command, Disk, Entry, Log, LogId, Machine, TypeConfig, Vote, open_sized, recent, seed_randomness, wal};
use crate::resource::Timestamp;
use crate::store::memory::Memory;
use crate::store::{Batch, Key, StateHash, Txn, Write};

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;
type Result<T, E = String> = std::result::Result<T, E>;

/// Small, so that a short life has many segments, and many transactions of the state.
const SIZES: Sizes = Sizes {
    wal: wal::Sizes { segment: 6 << 10, ahead: 1 << 10 },
    recent: recent::Sizes { entries: 7, bytes: 4 << 10, kept: 2 << 10 },
    cache: 4 << 20,
    events: 1 << 20,
};
const DIR: &str = "/device";

/// How many cuts were made, and over how many operations of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Power cuts, each followed by a start that was checked.
    pub cuts: u64,
    /// Operations at which the power was lost.
    pub operations: u64,
}

/// Lives one life again and again, each time until the power goes at another operation (every
/// `stride`-th of them), and checks what `tries` different cuts there leave. Needs a runtime of one
/// thread. An error names the seed, the operation and the try.
pub async fn cut_everywhere(seed: u64, steps: u64, stride: u64, tries: u64) -> Result<Cuts> {
    let whole = SimDisk::new(seed);
    let mut life = Life::new(seed);
    life.live(&whole, steps).await.map_err(|error| format!("seed {seed}, no cut: {error}"))?;
    check(&whole, &life).await.map_err(|error| format!("seed {seed}, no cut: {error}"))?;
    let mut cuts = Cuts::default();
    for operation in (1..=life.operations).step_by(usize::try_from(stride).unwrap_or(usize::MAX)) {
        let disk = SimDisk::new(seed);
        disk.lose_power_at(Some(operation));
        let mut life = Life::new(seed);
        let lived = life.live(&disk, steps).await;
        if !disk.is_dark() {
            return Err(format!("seed {seed}, operation {operation}: it was never reached: {lived:?}"));
        }
        // What is left of the old run ends before the device starts again.
        tokio::task::yield_now().await;
        cuts.operations += 1;
        for cut in 0..tries {
            let at = |error| format!("seed {seed}, operation {operation}, cut {cut}: {error}");
            let disk = disk.fork();
            disk.cut(seed ^ (operation << 20) ^ cut);
            check(&disk, &life).await.map_err(at)?;
            // The start itself may be cut.
            disk.cut(seed ^ (operation << 20) ^ cut ^ 0xff);
            check(&disk, &life).await.map_err(at)?;
            cuts.cuts += 2;
        }
    }
    Ok(cuts)
}

/// What is under way when the power goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UnderWay {
    Nothing,
    Vote(Vote),
    /// Entries with these terms, after the last.
    Append(Vec<u64>),
    /// The log has this many entries afterwards.
    Truncate(usize),
    Purge(u64),
    Install(u64),
}

/// What a device was told, and what must be true of it.
struct Life {
    chance: u64,
    vote: Option<Vote>,
    /// Term of each entry, by index.
    log: Vec<u64>,
    /// Entries up to this one are committed: they never change.
    committed: u64,
    applied: u64,
    /// Applied entries that no cut may take.
    durable: u64,
    purged: u64,
    under_way: UnderWay,
    operations: u64,
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

fn txn(term: u64, index: u64) -> Txn {
    let size = 40 + usize::try_from(index % 5).unwrap_or(0) * 150;
    let put = |name: String| Write::Put {
        key: Key::new("Test", "", name),
        body: format!("{term}/{index:>size$}").into_bytes(),
    };
    let batch = Batch { checks: Vec::new(), writes: vec![put(format!("doc-{}", index % 9)), put("last".into())] };
    Txn { client: index % 5, sequence: index, settled: index.saturating_sub(20), at: Timestamp(index), batch }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry::new(log_id(term, index), EntryPayload::Normal(Command::Txn(txn(term, index))))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn append(log: &mut Log, entries: Vec<Entry>) -> Result<()> {
    let (done, waiting) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.map_err(text)?;
    waiting.await.map_err(text)?.map_err(text)
}

fn open(disk: &SimDisk) -> Result<(Log, Machine)> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_sized(&disk, Path::new(DIR), SIZES).map_err(|error| crate::resource::chain(&error))
}

impl Life {
    fn new(seed: u64) -> Self {
        seed_randomness(seed);
        Self {
            chance: seed,
            vote: None,
            log: Vec::new(),
            committed: 0,
            applied: 0,
            durable: 0,
            purged: 0,
            under_way: UnderWay::Nothing,
            operations: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        splitmix(&mut self.chance) % below.max(1)
    }

    fn term(&self) -> u64 {
        self.vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// The log id of the entry before the given count.
    fn last_of(&self, count: u64) -> Option<LogId> {
        let index = count.checked_sub(1)?;
        Some(log_id(*self.log.get(usize::try_from(index).ok()?)?, index))
    }

    async fn live(&mut self, disk: &SimDisk, steps: u64) -> Result<()> {
        let (mut log, mut machine) = open(disk)?;
        for _ in 0..steps {
            match self.draw(16) {
                0 => self.vote(&mut log).await?,
                1 => self.replace_tail(&mut log).await?,
                2..=3 => self.make_durable(&machine).await?,
                4 => self.purge(&mut log).await?,
                5 => self.install(&mut log, &mut machine).await?,
                6 => {
                    machine.build_snapshot().await.map_err(text)?;
                    self.durable = self.applied;
                }
                7 => {
                    log.settle().await.map_err(text)?;
                    drop((log, machine));
                    (log, machine) = open(disk)?;
                    // A clean stop writes nothing out by itself, and loses nothing.
                    self.applied = machine.state().durable_index().map_or(0, |index| index + 1);
                    self.durable = self.applied;
                }
                8..=10 => self.apply(&mut log, &machine).await?,
                _ => self.append(&mut log).await?,
            }
            self.operations = disk.operations();
        }
        log.settle().await.map_err(text)?;
        self.operations = disk.operations();
        Ok(())
    }

    async fn vote(&mut self, log: &mut Log) -> Result<()> {
        let vote = Vote { leader_id: LeaderId::new(self.term() + 1, 1), committed: false };
        self.under_way = UnderWay::Vote(vote);
        log.save_vote(&vote).await.map_err(text)?;
        self.vote = Some(vote);
        self.under_way = UnderWay::Nothing;
        Ok(())
    }

    async fn append(&mut self, log: &mut Log) -> Result<()> {
        let start = self.log.len() as u64;
        let count = 1 + self.draw(4);
        let term = self.term();
        self.under_way = UnderWay::Append(vec![term; usize::try_from(count).unwrap_or(1)]);
        append(log, (start..start + count).map(|index| entry(term, index)).collect()).await?;
        self.log.extend((0..count).map(|_| term));
        self.under_way = UnderWay::Nothing;
        Ok(())
    }

    async fn replace_tail(&mut self, log: &mut Log) -> Result<()> {
        let length = self.log.len() as u64;
        let keep = self.committed + self.draw(length - self.committed + 1);
        self.under_way = UnderWay::Truncate(usize::try_from(keep).unwrap_or(0));
        log.truncate_after(self.last_of(keep)).await.map_err(text)?;
        self.log.truncate(usize::try_from(keep).unwrap_or(0));
        self.under_way = UnderWay::Nothing;
        self.vote(log).await?;
        self.append(log).await
    }

    async fn apply(&mut self, log: &mut Log, machine: &Machine) -> Result<()> {
        let length = self.log.len() as u64;
        self.committed += self.draw(length - self.committed + 1);
        log.save_committed(self.last_of(self.committed)).await.map_err(text)?;
        let entries = log.try_get_log_entries(self.applied..self.committed).await.map_err(text)?;
        machine.state().apply(&entries).await.map_err(text)?;
        self.applied = self.committed;
        Ok(())
    }

    async fn make_durable(&mut self, machine: &Machine) -> Result<()> {
        machine.state().make_durable().await.map_err(text)?;
        self.durable = self.applied;
        Ok(())
    }

    async fn purge(&mut self, log: &mut Log) -> Result<()> {
        let upto = self.purged + self.draw(self.applied - self.purged + 1);
        let Some(id) = self.last_of(upto).filter(|_| upto > self.purged) else { return Ok(()) };
        self.under_way = UnderWay::Purge(upto);
        log.purge(id).await.map_err(text)?;
        self.purged = upto;
        self.durable = self.durable.max(upto);
        self.under_way = UnderWay::Nothing;
        Ok(())
    }

    /// Takes a snapshot from a device that is ahead, and then lets the log behind it go.
    async fn install(&mut self, log: &mut Log, machine: &mut Machine) -> Result<()> {
        let ahead = self.log.len() as u64 + 1 + self.draw(4);
        let term = self.term();
        let mut history = self.log.clone();
        history.truncate(usize::try_from(self.committed).unwrap_or(0));
        history.resize(usize::try_from(ahead).unwrap_or(0), term);
        if self.committed < self.log.len() as u64 {
            return Ok(());
        }
        let (_log, mut donor) = open(&SimDisk::new(1))?;
        let entries: Vec<Entry> = (0..).zip(&history).map(|(index, &term)| entry(term, index)).collect();
        donor.state().apply(&entries).await.map_err(text)?;
        let snapshot = donor.build_snapshot().await.map_err(text)?;
        let file = donor.state().spool(snapshot.snapshot).await.map_err(text)?;
        let bytes = file.read_piece(0, usize::MAX).map_err(text)?;
        let mut incoming = machine.state().receive().map_err(text)?;
        incoming.push(&bytes).map_err(text)?;
        let arrived = incoming.finish().await.map_err(text)?;
        self.log = history;
        self.under_way = UnderWay::Install(ahead);
        machine.install_snapshot(&snapshot.meta, arrived).await.map_err(text)?;
        (self.applied, self.durable, self.committed) = (ahead, ahead, ahead);
        let id = self.last_of(ahead).ok_or("a snapshot of nothing")?;
        log.purge(id).await.map_err(text)?;
        self.purged = ahead;
        self.under_way = UnderWay::Nothing;
        Ok(())
    }

    /// The hash after the first `count` entries.
    fn hash(&self, count: u64) -> Result<StateHash> {
        let mut memory = Memory::new();
        for (index, &term) in (0..count).zip(&self.log) {
            crate::store::apply(&mut memory, &txn(term, index)).map_err(text)?;
        }
        Ok(memory.hash())
    }
}

/// Starts the device, and says what should be there and is not.
async fn check(disk: &SimDisk, life: &Life) -> Result<()> {
    let (mut log, machine) = open(disk)?;
    check_vote(&mut log, life).await?;
    let applied = check_state(&machine, life)?;
    let known = check_log(&mut log, life, applied).await?;

    // Whatever was applied and lost is in the log.
    let rest = log.try_get_log_entries(applied..known.min(life.committed)).await.map_err(text)?;
    let reached = applied.max(known.min(life.committed));
    if rest.len() as u64 != reached - applied {
        return Err(format!("entries {applied} to {reached} can not be replayed: there are {}", rest.len()));
    }
    machine.state().apply(&rest).await.map_err(text)?;
    if reached < life.applied.min(life.committed) {
        return Err(format!("{} entries were applied, and only {reached} can be", life.applied));
    }
    if machine.state().hash().map_err(text)? != life.hash(reached)? {
        return Err(format!("the state of {reached} entries has another hash after a replay"));
    }

    // And life goes on.
    let last = log.get_log_state().await.map_err(text)?.last_log_id;
    let next = last.map_or(0, |id| id.index + 1);
    append(&mut log, vec![entry(99, next)]).await?;
    let kept = log.try_get_log_entries(next..).await.map_err(text)?;
    if kept != [entry(99, next)] {
        return Err(format!("entry {next}, written after the cut, is not there"));
    }
    // Taken back, so that the next cut finds what this one left.
    log.truncate_after(last).await.map_err(text)
}

async fn check_vote(log: &mut Log, life: &Life) -> Result<()> {
    let found = log.read_vote().await.map_err(text)?;
    let newer = if let UnderWay::Vote(vote) = &life.under_way { Some(*vote) } else { life.vote };
    if found == life.vote || found == newer {
        return Ok(());
    }
    Err(format!("the vote is {found:?}, and {:?} was saved", life.vote))
}

fn check_state(machine: &Machine, life: &Life) -> Result<u64> {
    let (applied, _) = machine.state().applied_state().map_err(text)?;
    let applied = applied.map_or(0, |id| id.index + 1);
    let most = if let UnderWay::Install(ahead) = life.under_way { ahead } else { life.committed };
    if applied < life.durable || applied > most {
        return Err(format!("{applied} entries are applied, of {} that were durable and {most} at all", life.durable));
    }
    if machine.state().hash().map_err(text)? != life.hash(applied)? {
        return Err(format!("the state of {applied} entries has another hash"));
    }
    Ok(applied)
}

/// Checks the entries, and returns how many the log goes up to.
async fn check_log(log: &mut Log, life: &Life, applied: u64) -> Result<u64> {
    let state = log.get_log_state().await.map_err(text)?;
    let start = state.last_purged_log_id.map_or(0, |id| id.index + 1);
    let end = state.last_log_id.map_or(0, |id| id.index + 1);
    if start > applied {
        return Err(format!("the log begins at {start}, and the state ends at {applied}"));
    }
    let found = log.try_get_log_entries(start..end).await.map_err(text)?;
    if found.len() as u64 != end - start {
        return Err(format!("of entries {start} to {end} only {} are there", found.len()));
    }
    let mut expected = life.log.clone();
    let mut least = expected.len();
    let mut purges = vec![life.purged];
    match &life.under_way {
        UnderWay::Append(terms) => expected.extend(terms),
        UnderWay::Truncate(keep) => least = *keep,
        UnderWay::Purge(upto) => purges.push(*upto),
        UnderWay::Install(ahead) => {
            // The entries of the snapshot were never in this log.
            purges.push(*ahead);
            least = usize::try_from(life.purged.max(life.committed.min(end))).unwrap_or(0);
        }
        UnderWay::Nothing | UnderWay::Vote(_) => {}
    }
    if !purges.contains(&start) {
        return Err(format!("the log begins at {start}, and should at one of {purges:?}"));
    }
    let ends = least as u64..=expected.len() as u64;
    if !ends.contains(&end) {
        return Err(format!("the log ends at {end}, and should in {ends:?}"));
    }
    for (index, found) in (start..).zip(&found) {
        let term = usize::try_from(index).ok().and_then(|index| expected.get(index)).copied().unwrap_or_default();
        if *found != entry(term, index) {
            return Err(format!("entry {index} is not what was written: term {term} was"));
        }
    }
    Ok(end)
}

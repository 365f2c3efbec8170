//! Making a backup, and going on alone when the quorum is lost for good. It prepares everything
//! beside what is there, and writes what is to be done into the enrolment; the next start does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::End;
use super::backup::{self, Header};
use super::control::{Control, Refusal};
use super::enter::about_node;
use super::reports::Reports;
use super::{exchange, keeper, roll};
use crate::api::ByteChunks;
use crate::api::fleet::{RecoverDone, RecoverView};
use crate::consensus::{Engine, Freshness, Replica, Verdict};
use crate::identity::{Enrolment, Revival, Run, Switch};
use crate::storage::Seat;
use crate::store::{Batch, Write};

/// Bytes of a backup that travel at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that are read ahead of a slow reader.
const CHUNKS: usize = 2;

impl Control {
    /// The whole state at one revision, as a stream; see [`backup`].
    pub(crate) async fn backup(&self) -> Result<ByteChunks, Refusal> {
        let failed = |error: String| Refusal { status: 500, message: error };
        // As new as the fleet, where it can be asked; else as this device has it.
        let fresh = self.engine.barrier().await;
        tracing::info!(?fresh, "a backup is made");
        let spooled = self.engine.spool().await.map_err(|error| failed(error.to_string()))?;
        let hash = self.engine.state_hash().await.map_err(|error| failed(error.to_string()))?;
        let same = hash.revision == spooled.revision;
        let header = Header {
            made: self.clock.now().to_string(),
            device: self.name.clone(),
            release: crate::upgrade::release::version().into(),
            fleet: self.fleet.clone(),
            epoch: self.engine.stamp().epoch,
            authority: self.authority.clone(),
            revision: spooled.revision,
            state_hash: if same { hash.to_string() } else { String::new() },
            documents: spooled.documents.clone(),
            meta: spooled.meta.clone(),
        };
        let preamble = backup::preamble(&header).map_err(|error| failed(error.to_string()))?;
        let (send, receive) = mpsc::channel::<std::io::Result<Bytes>>(CHUNKS);
        // Ends by itself: with the file, or when the reader goes away.
        tokio::task::spawn_blocking(move || {
            let mut digest = Sha256::new();
            let mut offset = 0;
            let mut next = Some(Ok(preamble));
            while let Some(read) = next {
                let over = read.is_err();
                if let Ok(bytes) = &read {
                    digest.update(bytes);
                }
                if send.blocking_send(read.map(Bytes::from)).is_err() || over {
                    return;
                }
                next = match spooled.file.read_piece(offset, CHUNK_BYTES) {
                    Ok(piece) if piece.is_empty() => None,
                    piece => Some(piece),
                };
                offset += next.as_ref().map_or(0, |piece| piece.as_ref().map_or(0, Vec::len)) as u64;
            }
            drop(send.blocking_send(Ok(Bytes::copy_from_slice(&digest.finalize()))));
        });
        Ok(Box::pin(futures_util::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|chunk| (chunk, receive))
        })))
    }

    /// What a recovery on this device would keep, and what it may lose.
    pub(crate) async fn recovery(&self) -> RecoverView {
        let status = self.engine.status();
        let members = self.engine.members().borrow().clone();
        let quorum = self.engine.barrier().await == Freshness::Current;
        let name = |id: &u64| members.get(id).map_or_else(|| format!("member {id}"), |member| member.name.clone());
        let others = members.iter().filter(|(id, _)| **id != status.member_id).map(|(id, _)| name(id)).collect();
        RecoverView {
            fleet: self.fleet.clone(),
            device: self.name.clone(),
            epoch: self.engine.stamp().epoch.number(),
            quorum,
            voters: status.voters.keys().map(name).collect(),
            others,
            leader: status.leader.map(|id| name(&id)),
            leader_heard_seconds: status.contact_age.map(|age| age.as_secs()),
            last_entry: status.last_log,
            applied: status.applied,
            revision: status.revision,
            last_write: self.engine.last_change().to_string(),
            is_voter: status.voters.contains_key(&status.member_id),
        }
    }

    /// Makes this device the only voter of the fleet, in a new epoch. Its agent starts again with it.
    pub(crate) async fn recover(&self, force: bool) -> Result<RecoverDone, Refusal> {
        let refuse = |status, message: String| Refusal { status, message };
        if let Verdict::Fenced { reason } = &*self.engine.verdict().borrow() {
            return Err(refuse(409, format!("this device is fenced, so it can not be the one that goes on: {reason}")));
        }
        if let Verdict::OldEpoch { current } = &*self.engine.verdict().borrow() {
            return Err(refuse(409, format!("the fleet was recovered already and goes on in epoch {current}")));
        }
        let view = self.recovery().await;
        if view.quorum && !force {
            return Err(refuse(409, "the fleet has a quorum: there is nothing to recover".into()));
        }
        let failed = |error: &dyn std::fmt::Display| refuse(500, format!("recover: {error}"));
        let dir = &self.config.data_dir;
        let enrolment = Enrolment::load(dir).map_err(|error| failed(&error))?;
        let enrolment = enrolment.ok_or_else(|| refuse(409, "this device is in no fleet".into()))?;
        let known = enrolment.members.get(&enrolment.member_id).cloned().unwrap_or_default();
        if known.witness {
            let what = "this device is a witness, and can not make a fleet: it holds no authority and runs nothing";
            return Err(refuse(409, format!("{what}; recover on a full device")));
        }
        let epoch = enrolment.epoch.next().map_err(|error| failed(&error))?;
        let staged = dir.join(exchange::STAGED);
        exchange::remove(&staged).map_err(|error| failed(&error))?;
        // From here on this agent must start again, whatever comes of it.
        let restarts = Restarts(self.ending.clone());
        if let Err(error) = self.engine.shutdown().await {
            tracing::warn!(%error, "the engine did not end cleanly before the recovery");
        }
        let member = keeper::own_member(&self.signer.identity, &self.config, &known);
        let seat = Seat { id: Some(enrolment.member_id), member: member.clone() };
        let id = self.engine.reseat(&staged, seat).await.map_err(|error| failed(&error))?;
        let mut former = (*self.engine.members().borrow().clone()).clone();
        former.extend(enrolment.members.clone());
        former.retain(|_, other| other.key != member.key);
        let lost = lost(&view);
        let what = format!("{} recovered the fleet alone, as epoch {epoch}; {lost}", self.name);
        let revival = Some(Revival { what: what.clone(), former, seal: None });
        let aside = format!("epoch-{}-member-{}", enrolment.epoch, enrolment.member_id);
        let next = Enrolment {
            member_id: id,
            epoch,
            members: BTreeMap::from([(id, member)]),
            switch: Some(Switch { aside, staged: true }),
            revival,
            initial: None,
            outcast: false,
            ..enrolment
        };
        Run::settle(dir, &super::hardware::fingerprint()).map_err(|error| failed(&error))?;
        next.store(dir).map_err(|error| failed(&error))?;
        tracing::warn!(what, "recovered");
        drop(restarts);
        Ok(RecoverDone { epoch: epoch.number(), message: what })
    }
}

/// Starts the agent again when it goes.
struct Restarts(mpsc::Sender<End>);

impl Drop for Restarts {
    fn drop(&mut self) {
        // A full channel means that it ends already.
        drop(self.0.try_send(End::Again));
    }
}

/// What a recovery may lose, as a sentence.
pub(crate) fn lost(view: &RecoverView) -> String {
    let end = view.last_entry.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let others = if view.others.is_empty() { "nobody".to_owned() } else { view.others.join(", ") };
    let heard = view
        .leader_heard_seconds
        .map_or_else(|| "not since this agent started".to_owned(), |seconds| format!("{seconds} s before"));
    format!(
        "its log ended at entry {end}, its last write was of {}, a leader was last heard {heard}; what {others} had beyond that is lost",
        view.last_write
    )
}

/// After a recovery or a restore: the fleet's own state says so, once this device can write.
pub(crate) async fn proclaim(engine: Engine, reports: Arc<Reports>, name: String, dir: std::path::PathBuf) {
    let Ok(Some(enrolment)) = Enrolment::load(&dir) else { return };
    let Some(revival) = enrolment.revival else { return };
    loop {
        match tell(&engine, &revival).await {
            Ok(()) => break,
            Err(why) => tracing::debug!(why, "the recovery is not written down yet"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    reports.event(about_node(&name, "Recovered", revival.what));
    let Ok(Some(mut latest)) = Enrolment::load(&dir) else { return };
    latest.revival = None;
    if let Err(error) = latest.store(&dir) {
        tracing::error!(%error, "the enrolment can not be written");
    }
}

async fn tell(engine: &Engine, revival: &Revival) -> Result<(), String> {
    let everyone = roll::everyone(engine)?;
    let mut writes: Vec<Write> = Vec::new();
    for member in revival.former.values() {
        let known = everyone.get(&member.key).map(|(known, _)| known.clone()).unwrap_or_default();
        if known.fenced.is_none() {
            let known = roll::Known { name: member.name.clone(), former: true, ..known };
            writes.push(roll::put(&member.key, &known));
        }
    }
    if let Some(seal) = &revival.seal {
        let body = seal.to_object().to_string().into_bytes();
        writes.push(Write::Put { key: super::authority::seal_key(), body });
    }
    match engine.propose(Batch { checks: Vec::new(), writes }).await {
        Ok(crate::store::Outcome::Applied { .. }) => Ok(()),
        Ok(refused) => Err(format!("{refused:?}")),
        Err(error) => Err(error.to_string()),
    }
}

//! A device whose log or state can not be trusted any more. With others in its fleet it lets go of
//! both and asks to be let in as a new member, with no human hand; alone it refuses to start, because
//! what is left is all there is. It never starts again as the member that it was.

use std::path::Path;
use std::sync::Arc;

use super::{AgentError, start_again};
use crate::consensus::EngineError;
use crate::identity::Enrolment;
use crate::storage::{Disk, RealDisk, StorageError, set_aside};

/// What to do about an error of the start: the error that ends this run of the agent.
pub(super) fn after(data_dir: &Path, error: AgentError) -> AgentError {
    let AgentError::Engine(EngineError::Storage(why)) = error else { return error };
    if !matches!(why, StorageError::Unsound { .. }) {
        return EngineError::Storage(why).into();
    }
    match Enrolment::cast_out(data_dir) {
        Ok(true) => begin_again(data_dir, &why),
        Ok(false) => AgentError::Alone { why },
        Err(error) => error.into(),
    }
}

fn begin_again(data_dir: &Path, why: &StorageError) -> AgentError {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    match set_aside(&disk, data_dir, why) {
        Ok(aside) => {
            let evidence =
                aside.folder.map_or_else(|| "not kept: the disk is full".into(), |at| at.display().to_string());
            tracing::error!(%why, evidence, "the log and the state are set aside; this device enters as a new member");
            start_again()
        }
        Err(error) => EngineError::Storage(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::identity::{Identity, Member, Role, TokenTerms};
    use crate::resource::Timestamp;
    use crate::storage::Left;

    fn damaged() -> AgentError {
        let left = Left { last_entry: Some(7), applied: Some(5), revision: Some(3) };
        EngineError::Storage(StorageError::Unsound { path: "log".into(), reason: "a bit changed".into(), left }).into()
    }

    #[test]
    fn a_device_alone_keeps_what_it_has_and_says_what_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let member = Member {
            name: "lamp".into(),
            key: identity.key(),
            sealing_key: identity.sealing_key(),
            ..Member::default()
        };
        let (expires, created) = (Timestamp(2), Timestamp(1));
        let terms = TokenTerms { role: Role::Device, uses: 1, expires, created, created_by: "test".into() };
        let (enrolment, _) = Enrolment::found(&identity, member, terms).unwrap();
        enrolment.store(dir.path()).unwrap();
        std::fs::write(dir.path().join("state.redb"), b"what is left").unwrap();
        let said = after(dir.path(), damaged()).to_string();
        for part in ["entry 7", "entry 5", "revision 3", "kith restore", "only member"] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        assert!(dir.path().join("state.redb").exists());
        assert_eq!(
            Enrolment::load(dir.path()).unwrap().unwrap().members,
            BTreeMap::from([(1, enrolment.members[&1].clone())])
        );
    }
}

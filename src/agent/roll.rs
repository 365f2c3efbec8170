//! What the fleet has written down of each device key: its latest registered run, whether it is
//! fenced, whether it belonged to the fleet before a recovery. It reads and writes those documents;
//! who is registered or fenced, `enter` decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::consensus::{Engine, Record, Replica, Roll};
use crate::identity::{DeviceKey, Member, Run};
use crate::store::{Batch, Check, Key, Outcome, Precondition, Write};

/// Kind of the documents, named by the device's key.
pub(crate) const DEVICE: &str = "kith.dev/Device";

/// What is written down of one key: the `spec` of its document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Known {
    /// The device's name.
    pub(crate) name: String,
    /// The member id under which the run was registered.
    pub(crate) member_id: u64,
    /// The registered run.
    pub(crate) starts: u64,
    /// Its nonce, hexadecimal: JSON has no such integers.
    pub(crate) nonce: String,
    /// Why nobody with this key is heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fenced: Option<String>,
    /// It belonged to the fleet before a recovery, and may come back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) former: bool,
}

/// All of them, with the revision of each.
pub(crate) type Everyone = BTreeMap<DeviceKey, (Known, u64)>;

impl Known {
    /// A registered run of a member.
    pub(crate) fn registered(name: &str, member_id: u64, run: Run) -> Self {
        let nonce = format!("{:016x}", run.nonce);
        Self { name: name.into(), member_id, starts: run.starts, nonce, ..Self::default() }
    }

    /// The registered run.
    pub(crate) fn run(&self) -> Run {
        Run { starts: self.starts, nonce: u64::from_str_radix(&self.nonce, 16).unwrap_or(0) }
    }

    fn body(&self, key: &DeviceKey) -> Vec<u8> {
        let metadata = serde_json::json!({ "name": key.to_string() });
        let object = serde_json::json!({
            "apiVersion": "kith.dev/v1", "kind": "Device", "metadata": metadata, "spec": self,
        });
        object.to_string().into_bytes()
    }
}

/// Where a key's document stands.
pub(crate) fn place(key: &DeviceKey) -> Key {
    Key::new(DEVICE, "", key.to_string())
}

/// Everything that is written down.
pub(crate) fn everyone(engine: &Engine) -> Result<Everyone, String> {
    let listing = engine.list(DEVICE, None).map_err(|error| error.to_string())?;
    let known = listing.documents.iter().filter_map(|document| {
        let bytes: [u8; 32] = hex::decode(&document.key.name).ok()?.try_into().ok()?;
        let object: serde_json::Value = serde_json::from_slice(&document.body).ok()?;
        let known = Known::deserialize(object.get("spec")?).ok()?;
        Some((DeviceKey(bytes), (known, document.modified)))
    });
    Ok(known.collect())
}

/// As the engine wants it: by member id. A record of another membership of the same key says
/// nothing about its runs, but a fence holds.
pub(crate) fn by_member(everyone: &Everyone, members: &BTreeMap<u64, Member>) -> Roll {
    let record = |(id, member): (&u64, &Member)| {
        let (known, _) = everyone.get(&member.key)?;
        let run = if known.member_id == *id { known.run() } else { Run::default() };
        Some((*id, Record { run, fenced: known.fenced.clone() }))
    };
    members.iter().filter_map(record).collect()
}

/// The write of a record.
pub(crate) fn put(key: &DeviceKey, known: &Known) -> Write {
    Write::Put { key: place(key), body: known.body(key) }
}

/// Writes a record unless it changed since it was read.
pub(crate) async fn write(engine: &Engine, key: &DeviceKey, known: &Known, read_at: Option<u64>) -> Result<(), String> {
    let expect = read_at.map_or(Precondition::Absent, Precondition::AtRevision);
    let checks = vec![Check { key: place(key), expect }];
    match engine.propose(Batch { checks, writes: vec![put(key, known)] }).await {
        Ok(Outcome::Applied { .. }) => Ok(()),
        Ok(Outcome::Refused { .. }) => Err("the device's record changed meanwhile".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_is_of_one_membership() {
        let run = Run { starts: 7, nonce: u64::MAX - 1 };
        let known = Known::registered("d1", 3, run);
        let object: serde_json::Value = serde_json::from_slice(&known.body(&DeviceKey([1; 32]))).unwrap();
        let back = Known::deserialize(&object["spec"]).unwrap();
        assert_eq!((back.run(), &back), (run, &known));
        let member = Member { key: DeviceKey([1; 32]), ..Member::default() };
        let everyone: Everyone = [(member.key, (known, 1))].into();
        let roll = |id| by_member(&everyone, &[(id, member.clone())].into());
        assert_eq!(roll(3)[&3].run, run);
        assert_eq!(roll(5)[&5].run, Run::default(), "the key joined anew");
    }
}

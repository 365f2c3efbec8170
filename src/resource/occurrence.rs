//! What happened to an object, as Kubernetes' `Event`: named after what it says, so that a
//! repetition counts up in place and never piles up. It writes nothing.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use sha2::{Digest, Sha256};

use super::time::Timestamp;

/// The most characters of an event's message; longer ones are cut.
pub const MESSAGE_LIMIT: usize = 1024;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// To what.
    pub involved: ObjectReference,
    /// Whether somebody should look at it.
    pub warning: bool,
    /// One word, such as `FailedScheduling`.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
    /// Who saw it: `kith-planner` or `kith-reconciler`.
    pub component: &'static str,
    /// The device that saw it; empty for the fleet.
    pub host: String,
}

impl Occurrence {
    /// The namespace that its event lives in.
    pub fn namespace(&self) -> &str {
        self.involved.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }

    /// The name of its event: the same for the same thing said of the same object by the same device.
    pub fn name(&self) -> String {
        let mut digest = Sha256::new();
        let uid = self.involved.uid.as_deref().unwrap_or_default();
        let path = self.involved.field_path.as_deref().unwrap_or_default();
        for part in [uid, path, self.reason, &self.message, self.component, &self.host] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        let bytes = digest.finalize();
        let object: String = self.involved.name.as_deref().unwrap_or("unnamed").chars().take(200).collect();
        format!("{}.{}", object.trim_end_matches(['.', '-']), hex::encode(&bytes[..8]))
    }

    /// The event to store, counting up from the one that is stored already.
    pub fn event(&self, stored: Option<&Event>, now: Timestamp) -> Event {
        let name = self.name();
        let uid = self.uid(&name);
        let first = stored.and_then(|event| event.first_timestamp.clone()).unwrap_or_else(|| now.to_kubernetes());
        let count = stored.and_then(|event| event.count).unwrap_or(0).saturating_add(1);
        let metadata = stored.map_or_else(
            || ObjectMeta {
                name: Some(name),
                namespace: Some(self.namespace().to_owned()),
                uid: Some(uid),
                creation_timestamp: Some(now.to_kubernetes()),
                ..ObjectMeta::default()
            },
            |event| event.metadata.clone(),
        );
        let host = Some(self.host.clone()).filter(|host| !host.is_empty());
        Event {
            metadata,
            involved_object: self.involved.clone(),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.chars().take(MESSAGE_LIMIT).collect()),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(count),
            first_timestamp: Some(first),
            last_timestamp: Some(now.to_kubernetes()),
            source: Some(EventSource { component: Some(self.component.to_owned()), host }),
            ..Event::default()
        }
    }

    fn uid(&self, name: &str) -> String {
        derived_uid(&["event", self.namespace(), name])
    }
}

/// A reference to an object, for `involved`.
pub fn reference_to<T: Resource + Metadata<Ty = ObjectMeta>>(object: &T) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(T::API_VERSION.to_owned()),
        kind: Some(T::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    }
}

/// A uid that is the same whenever it is derived from the same parts (a version 8 UUID).
pub fn derived_uid(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let mut bytes: [u8; 16] = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            involved: ObjectReference { name: Some("web".into()), uid: Some("u".into()), ..ObjectReference::default() },
            warning: true,
            reason: "BackOff",
            message: message.into(),
            component: "kith-reconciler",
            host: "a".into(),
        }
    }

    #[test]
    fn a_repetition_counts_up_in_place() {
        let first = occurrence("x").event(None, Timestamp(1000));
        let again = occurrence("x").event(Some(&first), Timestamp(5000));
        assert_eq!(first.metadata.name, again.metadata.name);
        assert_eq!(again.count, Some(2));
        assert_eq!(again.first_timestamp, first.first_timestamp);
        assert_ne!(occurrence("y").name(), occurrence("x").name());
        assert_eq!(first.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn derived_uids_look_like_uuids() {
        let uid = derived_uid(&["a", "b"]);
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "8");
        assert_ne!(uid, derived_uid(&["ab", ""]));
    }
}

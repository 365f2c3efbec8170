//! Objects that nothing is planned for but their end: what a plan can need of them and no more,
//! because a fleet may hold tens of thousands.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::store::Key;

/// Kind and namespace.
type Place = (String, String);

/// What is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Its `resourceVersion`.
    pub revision: u64,
    uid: Uid,
    /// The objects that it must not outlive.
    pub owners: Box<[OwnerReference]>,
}

/// Most are UUIDs, which need no allocation.
#[derive(Clone, Debug, PartialEq)]
enum Uid {
    Number([u8; 16]),
    Text(Box<str>),
}

impl Uid {
    fn of(text: &str) -> Self {
        let plain: String = text.split('-').collect();
        let mut number = [0; 16];
        let read = hex::decode_to_slice(&plain, &mut number).is_ok().then_some(Self::Number(number));
        read.filter(|uid| uid.is(text)).unwrap_or_else(|| Self::Text(text.into()))
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Number(number) => {
                let hex = hex::encode(number);
                let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                text.split('-').eq(parts)
            }
            Self::Text(own) => **own == *text,
        }
    }
}

impl Other {
    pub(super) fn new(meta: ObjectMeta, revision: u64) -> Self {
        let uid = Uid::of(meta.uid.as_deref().unwrap_or_default());
        Self { revision, uid, owners: meta.owner_references.unwrap_or_default().into() }
    }

    /// Whether this object has that uid.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.uid.is(uid)
    }
}

/// All of them, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Others {
    places: BTreeMap<Place, BTreeMap<Box<str>, Other>>,
    owned: BTreeSet<Key>,
}

impl Others {
    pub(super) fn insert(&mut self, key: &Key, other: Other) {
        if other.owners.is_empty() {
            self.owned.remove(key);
        } else {
            self.owned.insert(key.clone());
        }
        let place = (key.kind.clone(), key.namespace.clone());
        self.places.entry(place).or_default().insert(key.name.as_str().into(), other);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.owned.remove(key);
        let place = (key.kind.clone(), key.namespace.clone());
        if let Some(names) = self.places.get_mut(&place) {
            names.remove(key.name.as_str());
            if names.is_empty() {
                self.places.remove(&place);
            }
        }
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<&Other> {
        self.places.get(&(key.kind.clone(), key.namespace.clone()))?.get(key.name.as_str())
    }

    /// Those that have owners.
    pub fn owned(&self) -> impl Iterator<Item = (&Key, &Other)> {
        self.owned.iter().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Keys and revisions of all, or of those in one namespace.
    pub fn keys(&self, namespace: Option<&str>) -> impl Iterator<Item = (Key, u64)> {
        let inside = move |place: &Place| namespace.is_none_or(|namespace| place.1 == namespace);
        let places = self.places.iter().filter(move |(place, _)| inside(place));
        places.flat_map(|((kind, namespace), names)| {
            names.iter().map(move |(name, other)| (Key::new(kind, namespace, &**name), other.revision))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_what_makes_it_itself() {
        for uid in ["6f1c2c4e-0d0f-4a57-9b2e-0123456789ab", "6F1C2C4E-0d0f-4a57-9b2e-0123456789ab", "u1", "", "a-b"] {
            let meta = ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
            let other = Other::new(meta, 7);
            assert!(other.has_uid(uid), "{uid}");
            assert!(!other.has_uid("6f1c2c4e-0d0f-4a57-9b2e-0123456789ac"), "{uid}");
            assert!(!other.has_uid(&format!("{uid}-")), "{uid}");
        }
    }

    #[test]
    fn what_is_removed_is_gone_from_every_view() {
        let owner = OwnerReference { name: "o".into(), ..OwnerReference::default() };
        let meta = ObjectMeta { owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let (one, two) = (Key::new("ConfigMap", "a", "one"), Key::new("ConfigMap", "b", "two"));
        let mut others = Others::default();
        others.insert(&one, Other::new(meta, 1));
        others.insert(&two, Other::new(ObjectMeta::default(), 2));
        assert_eq!(others.owned().map(|(key, _)| key).collect::<Vec<_>>(), [&one]);
        assert_eq!(others.keys(None).collect::<Vec<_>>(), [(one.clone(), 1), (two.clone(), 2)]);
        assert_eq!(others.keys(Some("b")).collect::<Vec<_>>(), [(two.clone(), 2)]);
        others.insert(&one, Other::new(ObjectMeta::default(), 3));
        assert_eq!(others.owned().count(), 0);
        others.remove(&one);
        others.remove(&two);
        assert_eq!(others, Others::default());
    }
}

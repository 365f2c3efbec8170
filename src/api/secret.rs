//! Secrets at the edge: their values are locked before they enter a proposal, and opened for
//! administrators after they left the store. Between the two nothing of this room sees them in the clear.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Api;
use super::failure::Failure;
use crate::resource::kind::Kind;
use crate::resource::meta;

/// Where `kubectl apply` leaves the whole object once more, values included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How a locked annotation begins; its value is text.
const LOCKED_TEXT: &str = "kith-locked:";

/// A locked value and the place that it was locked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedValue {
    /// Where it stands.
    pub place: String,
    /// The locked bytes.
    pub bytes: Vec<u8>,
}

/// Who locks and opens values of secrets.
pub trait Secrecy: Send + Sync + 'static {
    /// Locks a value for its place.
    fn lock(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, String>;

    /// Opens values, here or by asking those who can.
    fn unlock(&self, values: Vec<LockedValue>) -> BoxFuture<'_, Result<Vec<Vec<u8>>, String>>;
}

/// The place of a secret's value.
pub fn place_of(namespace: &str, name: &str, key: &str) -> String {
    format!("{namespace}/{name}/{key}")
}

/// Whether objects of a kind have values that are locked at rest.
pub(super) fn is_secret(kind: &Kind) -> bool {
    kind.kind == "Secret" && kind.group.is_empty()
}

/// The place of the annotation: no key of a secret has a colon.
fn annotation_place(object: &Value) -> String {
    place_of(meta::namespace(object), meta::name(object), ":last-applied")
}

impl Api {
    /// The stored form of a secret. Values that `before` has too keep the form that they have in
    /// `stored`, so that what does not change is not written.
    pub(super) fn locked(&self, mut object: Value, before: Option<(&Value, &Value)>) -> Result<Value, Failure> {
        let refused = |why: String| Failure::unavailable(format!("the secret was not accepted: {why}"));
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let place = annotation_place(&object);
        let same = |path: &[&str], value: &Value| {
            let at = |object: &Value| path.iter().try_fold(object.clone(), |at, part| at.get(part).cloned());
            let (open, stored) = before?;
            at(open).filter(|known| known == value).and_then(|_| at(stored))
        };
        let secrecy = &self.inner.config.secrecy;
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            for (key, value) in data {
                if let Some(stored) = same(&["data", key], value) {
                    *value = stored;
                    continue;
                }
                let bytes = BASE64
                    .decode(value.as_str().unwrap_or_default())
                    .map_err(|error| Failure::bad_request(format!("data[{key}]: the value is not base64: {error}")))?;
                let locked = secrecy.lock(&place_of(&namespace, &name, key), &bytes).map_err(refused)?;
                *value = BASE64.encode(locked).into();
            }
        }
        if let Some(value) = object.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED)) {
            *value = if let Some(stored) = same(&["metadata", "annotations", LAST_APPLIED], value) {
                stored
            } else {
                let text = value.as_str().unwrap_or_default().as_bytes();
                let locked = secrecy.lock(&place, text).map_err(refused)?;
                format!("{LOCKED_TEXT}{}", BASE64.encode(locked)).into()
            };
        }
        Ok(object)
    }

    /// Opens the values of secrets, all of them at once.
    pub(super) async fn open_secrets(&self, objects: &mut [Value]) -> Result<(), Failure> {
        let mut locked = Vec::new();
        for object in objects.iter_mut() {
            visit(object, |place, value| {
                if let Some(bytes) = bytes_of(value) {
                    locked.push(LockedValue { place, bytes });
                }
            });
        }
        if locked.is_empty() {
            return Ok(());
        }
        let opened = self.inner.config.secrecy.unlock(locked).await;
        let opened =
            opened.map_err(|why| Failure::unavailable(format!("the values of the secret can not be shown: {why}")))?;
        let mut opened = opened.into_iter();
        for object in objects {
            visit(object, |place, value| {
                if bytes_of(value).is_none() {
                    return;
                }
                let bytes = opened.next().unwrap_or_default();
                *value = if place.ends_with(":last-applied") {
                    String::from_utf8_lossy(&bytes).into_owned().into()
                } else {
                    BASE64.encode(bytes).into()
                };
            });
        }
        Ok(())
    }

    /// One object with its values opened, if it is a secret.
    pub(super) async fn opened(&self, kind: &Kind, object: Value) -> Result<Value, Failure> {
        let mut objects = [object];
        if is_secret(kind) {
            self.open_secrets(&mut objects).await?;
        }
        let [object] = objects;
        Ok(object)
    }
}

/// Every value of a secret that is locked at rest, with its place.
fn visit(object: &mut Value, mut each: impl FnMut(String, &mut Value)) {
    let (namespace, name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
    let place = annotation_place(object);
    for (key, value) in object.get_mut("data").and_then(Value::as_object_mut).into_iter().flatten() {
        each(place_of(&namespace, &name, key), value);
    }
    if let Some(value) = object.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED)) {
        each(place, value);
    }
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    BASE64.decode(text.strip_prefix(LOCKED_TEXT).unwrap_or(text)).ok()
}

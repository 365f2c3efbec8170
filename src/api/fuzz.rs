//! For fuzzers: requests. What they admit is handed back.

use serde_json::{Value, json};

use super::admit::{self, Strictness};
use super::ask::Query;
use super::route::{Route, Target};
use crate::resource::kind::Kind;
use crate::resource::patch::{self, PatchKind};
use crate::resource::selector::{FieldSelector, LabelSelector};
use crate::resource::{Timestamp, table};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// What a client sends once its connection has become SPDY.
pub(crate) fn spdy(bytes: &[u8]) {
    super::stream::fuzz(bytes);
}

/// Seeds for that.
#[cfg(test)]
pub(crate) fn spdy_seeds() -> Vec<(&'static str, Vec<u8>)> {
    super::stream::seeds()
}

/// Lines: path, query, content type; the rest is the body. Returns the object as it would be stored.
pub(crate) fn admitted(bytes: &[u8]) -> Option<(&'static Kind, Value)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, query, content_type, body) = (line(), line(), line(), line());
    let query = Query::parse(query);
    let (_, _, _) = (query.flag("watch"), query.number("limit"), Strictness::parse(query.get("fieldValidation")));
    let _ = LabelSelector::parse(query.get("labelSelector"));
    let Route::Objects(target) = Route::parse(path)? else { return None };
    let _ = FieldSelector::parse(target.kind, query.get("fieldSelector"));
    let sent = serde_json::from_str::<Value>(body).ok()?;
    let object = match PatchKind::of(content_type) {
        Some(kind) => patched(&target, kind, sent),
        None => created(&target, sent),
    };
    object.map(|object| (target.kind, object))
}

fn created(target: &Target, sent: Value) -> Option<Value> {
    let mut warnings = Vec::new();
    let identity = (NOW, "uid".to_owned(), 7);
    let object = admit::create(target, sent, Strictness::Warn, identity, &mut warnings).ok()?;
    // What was stored is taken back as it is, and changes nothing.
    let again = admit::update(
        target,
        &object,
        object.clone(),
        Strictness::Warn,
        &mut warnings,
        crate::resource::validate::update,
    );
    let again = again.unwrap_or_else(|failure| panic!("an admitted object is refused: {failure:?}"));
    assert_eq!(again["spec"], object["spec"], "an update without a change changes the spec");
    let _ = table::render(target.kind, vec![object.clone()], table::Include::Object, "v1", NOW);
    Some(object)
}

fn patched(target: &Target, kind: PatchKind, sent: Value) -> Option<Value> {
    let plain = json!({
        "apiVersion": target.kind.api_version(), "kind": target.kind.kind,
        "metadata": {"name": "a", "namespace": "default", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "hello:1"}], "hostNetwork": true},
    });
    let object = patch::apply(kind, &plain, sent).ok()?;
    let _ = admit::update(
        target,
        &plain,
        object.clone(),
        Strictness::Warn,
        &mut Vec::new(),
        crate::resource::validate::update,
    );
    created(target, object)
}

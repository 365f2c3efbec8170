//! Tells the engine when this device should not lead, because its node is cordoned or drained. It
//! only looks at this device's own node.

use serde_json::Value;

use crate::consensus::{Engine, Replica};
use crate::resource::meta;
use crate::store::Key;

/// Follows this device's node, for ever.
pub(crate) async fn follow_node(engine: Engine, name: String) {
    let key = Key::new("Node", "", &name);
    let mut revisions = engine.revision();
    let mut seen = None;
    loop {
        let now = *revisions.borrow_and_update();
        let changed = seen.is_none_or(|seen| {
            engine.events_since(seen, Some("Node")).map_or(true, |events| events.iter().any(|event| event.key == key))
        });
        if changed && let Ok(document) = engine.get(&key) {
            let node = document.and_then(|found| serde_json::from_slice::<Value>(&found.body).ok());
            engine.set_reluctance(node.filter(is_cordoned).map(|_| "it is cordoned".into()));
        }
        seen = Some(now);
        // Cancel-safe: a watch.
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

fn is_cordoned(node: &Value) -> bool {
    meta::at(node, "spec.unschedulable") == Some(&Value::Bool(true))
}

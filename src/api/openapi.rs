//! OpenAPI: enough for `kubectl apply`, `explain` and validation on the server. The schemas are
//! printed from the field table.

use serde_json::{Map, Value, json};

use crate::resource::fields::{self, Field, Form, Stance};
use crate::resource::kind::{self, Kind};

/// The content type of version 2 as protobuf, which `kubectl` before 1.27 reads. It asks for it with an `@`,
/// which its own parser of media types does not take in an answer.
pub(super) const PROTOBUF_2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Version 2 as JSON. It names no schema: clients then leave the validation to the server.
pub(super) fn version_2(release: &str) -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kith", "version": release}, "paths": {}, "definitions": {}})
}

/// Version 2 as an `openapi.v2.Document` message: no schemas, and of the paths only what `kubectl`
/// before 1.27 looks for, which is whether a kind's patches know `dryRun`.
pub(super) fn version_2_protobuf(release: &str) -> Vec<u8> {
    let info = [field(1, b"Kith"), field(2, release.as_bytes())].concat();
    let mut paths = Vec::new();
    for kind in kind::all() {
        // Parameter > non-body parameter > query parameter > name.
        let parameter = field(1, &field(2, &field(3, &field(4, b"dryRun"))));
        let gvk = format!("group: \"{}\"\nversion: {}\nkind: {}\n", kind.group, kind.version, kind.kind);
        let extension = [field(1, b"x-kubernetes-group-version-kind"), field(2, &field(2, gvk.as_bytes()))].concat();
        let patch = [field(8, &parameter), field(13, &extension)].concat();
        let name = format!("{}/{{name}}", kind.path(kind.namespaced.then_some("{namespace}")));
        paths.extend(field(2, &[field(1, name.as_bytes()), field(2, &field(8, &patch))].concat()));
    }
    [field(1, b"2.0"), field(2, &info), field(8, &paths)].concat()
}

/// A protobuf field that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        encoded.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    encoded.push(u8::try_from(length).unwrap_or(0));
    encoded.extend_from_slice(bytes);
    encoded
}

/// The index of version 3.
pub(super) fn version_3() -> Value {
    let place = |kind: &&Kind| {
        let path = if kind.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}", kind.api_version()) };
        let found = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
        (path, found)
    };
    let paths: Map<String, Value> = kind::all().iter().map(place).collect();
    json!({"paths": paths})
}

/// Version 3 of one group: its paths with the parameters that `kubectl` looks for, and schemas.
pub(super) fn version_3_of(group: &str, version: &str, release: &str) -> Option<Value> {
    let kinds: Vec<&Kind> =
        kind::all().iter().copied().filter(|kind| kind.group == group && kind.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in kinds {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let collection = kind.path(kind.namespaced.then_some("{namespace}"));
        paths.insert(format!("{collection}/{{name}}"), operations(&gvk));
        paths.insert(collection, json!({"post": operation(&gvk, "post")}));
        let mut schema = object_schema(fields::of(kind));
        schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        schemas.insert(schema_name(kind), schema);
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": "Kith", "version": release},
        "paths": paths, "components": {"schemas": schemas}}))
}

fn schema_name(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind)
}

fn operations(gvk: &Value) -> Value {
    json!({"get": {"x-kubernetes-action": "get", "x-kubernetes-group-version-kind": gvk, "responses": {}},
        "put": operation(gvk, "put"), "patch": operation(gvk, "patch"), "delete": operation(gvk, "delete")})
}

fn operation(gvk: &Value, action: &str) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"].into_iter().map(parameter).collect();
    // Without a strategic merge type here, `kubectl` computes patches from its own types, which know the merge keys.
    let body = json!({"content": {"application/json": {"schema": {"type": "object"}}}});
    json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk, "parameters": parameters,
        "requestBody": body, "responses": {}})
}

fn object_schema(fields: &'static [Field]) -> Value {
    let mut properties = Map::new();
    for field in fields.iter().filter(|field| field.name != "*") {
        let mut schema = schema(field.form);
        schema["description"] = json!(description(field.stance));
        properties.insert(field.name.to_owned(), schema);
    }
    json!({"type": "object", "properties": properties})
}

fn schema(form: Form) -> Value {
    match form {
        Form::Text | Form::Moment | Form::Quantity => json!({"type": "string"}),
        Form::Integer => json!({"type": "integer", "format": "int64"}),
        Form::Boolean => json!({"type": "boolean"}),
        Form::IntegerOrText => json!({"x-kubernetes-int-or-string": true}),
        Form::TextMap | Form::BytesMap | Form::Amounts(_) => {
            json!({"type": "object", "additionalProperties": {"type": "string"}})
        }
        Form::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Form::Integers => json!({"type": "array", "items": {"type": "integer", "format": "int64"}}),
        Form::Object(fields) => object_schema(fields),
        Form::Objects(fields) => json!({"type": "array", "items": object_schema(fields)}),
        Form::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    }
}

fn description(stance: Stance) -> String {
    let list = |fine: &[&str]| fine.join(", ");
    match stance {
        Stance::Honoured => "Honoured.".into(),
        Stance::Warned(why) | Stance::WarnedUnless([], why) => format!("Warned about: {why}."),
        Stance::Refused(why) | Stance::RefusedUnless([], why) => format!("Refused: {why}."),
        Stance::WarnedUnless(fine, why) => format!("Honoured: {}. Else warned about: {why}.", list(fine)),
        Stance::RefusedUnless(fine, why) => format!("Honoured: {}. Else refused: {why}.", list(fine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protobuf_is_the_message() {
        let message = version_2_protobuf("1");
        assert!(message.starts_with(b"\x0a\x032.0\x12\x09\x0a\x04Kith\x12\x011\x42"));
        assert_eq!(field(1, &[7; 300])[..3], [0x0a, 0xac, 0x02]);
    }

    #[test]
    fn version_3_knows_the_parameters() {
        let found = version_3_of("apps", "v1", "0").unwrap();
        let patch = &found["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["parameters"][2]["name"], "fieldValidation");
        assert!(version_3_of("batch", "v1", "0").is_none());
    }
}

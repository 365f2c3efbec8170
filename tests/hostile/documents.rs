//! Manifests, indexes and configurations that mean harm.

use serde_json::json;

use crate::archive::{architecture, digest, layout};
use crate::judge::Verdict::{self, Refused};
use crate::judge::{Bench, settle};

fn index(entries: serde_json::Value) -> String {
    json!({"schemaVersion": 2, "manifests": entries}).to_string()
}

#[test]
fn documents_that_mean_harm_are_refused() {
    let bench = Bench::new();
    let name = json!({"org.opencontainers.image.ref.name": "evil:1"});
    let entry = |bytes: &[u8], media: &str| json!([{"mediaType": media, "digest": digest(bytes), "size": 1, "annotations": name}]);
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let index_type = "application/vnd.oci.image.index.v1+json";
    let config = json!({"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        .to_string();
    let with = |config: &[u8], layers: serde_json::Value| {
        json!({"schemaVersion": 2, "config": {"digest": digest(config), "size": config.len()}, "layers": layers})
            .to_string()
    };
    let absent = digest(b"absent");
    let evil = "sha256:../../../../../../etc/passwd";
    // An index that can only be reached through five others.
    let mut chain = vec![index(entry(b"absent", manifest))];
    for _ in 0..5 {
        let inner = chain.last().unwrap().clone();
        chain.push(index(entry(inner.as_bytes(), index_type)));
    }
    let top = chain.pop().unwrap();
    let blobs: Vec<Vec<u8>> = chain.iter().map(|text| text.clone().into_bytes()).collect();
    let deep = "{\"a\":".repeat(100_000);
    let good = with(config.as_bytes(), json!([]));
    let two = json!({"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [absent, absent]}}).to_string();
    let unmatched = with(two.as_bytes(), json!([]));
    let odd_user = json!({"architecture": architecture(), "os": "linux", "config": {"User": "../../etc:x"},
        "rootfs": {"type": "layers", "diff_ids": []}})
    .to_string();
    let odd = with(odd_user.as_bytes(), json!([]));
    let cases: Vec<(&str, String, Vec<Vec<u8>>, Verdict)> = vec![
        (
            "a digest that is a path",
            index(json!([{"digest": evil, "size": 1, "annotations": name}])),
            vec![],
            Refused("sha256"),
        ),
        ("a digest of another kind", index(json!([{"digest": "md5:1", "size": 1}])), vec![], Refused("sha256")),
        ("a manifest that is absent", index(entry(b"absent", manifest)), vec![], Refused("no blob")),
        ("indexes too deep", top, blobs, Refused("too deep")),
        ("no index at all", "[]".into(), vec![], Refused("damaged")),
        ("JSON too deep", deep, vec![], Refused("damaged")),
        ("a negative size", index(json!([{"digest": absent, "size": -1}])), vec![], Refused("damaged")),
        (
            "a layer that is absent",
            index(entry(with(config.as_bytes(), json!([{"digest": absent, "size": 1}])).as_bytes(), manifest)),
            vec![
                config.clone().into_bytes(),
                with(config.as_bytes(), json!([{"digest": absent, "size": 1}])).into_bytes(),
            ],
            Refused("no blob"),
        ),
        (
            "layers and digests that differ in number",
            index(entry(unmatched.as_bytes(), manifest)),
            vec![two.into_bytes(), unmatched.clone().into_bytes()],
            Refused("differ in number"),
        ),
        (
            "a configuration that is none",
            index(entry(with(b"[]", json!([])).as_bytes(), manifest)),
            vec![b"[]".to_vec(), with(b"[]", json!([])).into_bytes()],
            Refused("configuration"),
        ),
        (
            "a user that is a path",
            index(entry(odd.as_bytes(), manifest)),
            vec![odd_user.into_bytes(), odd.clone().into_bytes()],
            Refused("user"),
        ),
        (
            "a name that is a path",
            index(json!([{"mediaType": manifest, "digest": digest(good.as_bytes()), "size": 1,
            "annotations": {"org.opencontainers.image.ref.name": "../../etc/passwd"}}])),
            vec![config.clone().into_bytes(), good.clone().into_bytes()],
            Refused("image name"),
        ),
        (
            "an image for another processor only",
            index(json!([{"digest": digest(good.as_bytes()), "size": 1,
            "platform": {"os": "linux", "architecture": "s390x"}}])),
            vec![config.into_bytes(), good.into_bytes()],
            Refused("this device"),
        ),
    ];
    settle(cases.into_iter().map(|(name, index, blobs, verdict)| bench.judge(name, &layout(&index, &blobs), verdict)));
}

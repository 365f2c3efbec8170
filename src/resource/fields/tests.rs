#![expect(clippy::disallowed_methods, reason = "the generated page is a file")]

use serde_json::json;

use super::*;
use crate::resource::kind;

fn verdicts(mut pod: serde_json::Value) -> Vec<(String, Verdict)> {
    inspect(&kind::POD, &mut pod).into_iter().map(|finding| (finding.path, finding.verdict)).collect()
}

#[test]
fn a_typo_is_found_with_what_was_meant() {
    let mut pod = json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "iamge": "x", "prots": []}]}});
    let found = inspect(&kind::POD, &mut pod);
    assert_eq!(found[0].path, "spec.containers[0].iamge");
    assert_eq!(found[0].verdict, Verdict::Unknown { meant: Some("image") });
    assert_eq!(found[1].verdict, Verdict::Unknown { meant: Some("ports") });
    assert_eq!(pod, json!({"spec": {"hostNetwork": true, "containers": [{"name": "a"}]}}), "typos are removed");
}

#[test]
fn unsafe_fields_are_refused_and_others_warned_about() {
    let found = verdicts(json!({"spec": {
        "hostNetwork": false, "volumes": [{"name": "v", "nfs": {"server": "a"}}], "affinity": {"nodeAffinity": {"a": 1}}, "dnsPolicy": "None",
        "containers": [{"resizePolicy": [{"a": "b"}]}]}}));
    let refused: Vec<_> =
        found.iter().filter(|(_, v)| matches!(v, Verdict::Refused(_))).map(|(path, _)| path.as_str()).collect();
    let warned: Vec<_> =
        found.iter().filter(|(_, v)| matches!(v, Verdict::Warned(_))).map(|(path, _)| path.as_str()).collect();
    assert_eq!(refused, ["spec.volumes[0].nfs"]);
    assert_eq!(warned, ["spec.affinity", "spec.containers[0].resizePolicy"]);
}

#[test]
fn empty_values_are_no_reason_to_complain() {
    let found = verdicts(json!({"spec": {"hostNetwork": true, "volumes": [], "hostPID": false, "priority": 0,
        "affinity": {}, "subdomain": "", "securityContext": {}, "tolerations": null,
        "containers": [{"resources": {}, "stdin": false, "securityContext": {"privileged": false}}]}}));
    assert_eq!(found, []);
}

#[test]
fn types_are_checked() {
    let found = verdicts(json!({"metadata": {"labels": {"a": 1}, "creationTimestamp": "yesterday"}, "spec": {
        "terminationGracePeriodSeconds": "3", "containers": [{"command": "ls", "resources": {"limits": {"cpu": 1, "memory": "lots"}}}, 7]}}));
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "metadata.creationTimestamp",
            "metadata.labels[a]",
            "spec.containers[0].command",
            "spec.containers[0].resources.limits.memory",
            "spec.containers[1]",
            "spec.terminationGracePeriodSeconds"
        ]
    );
    assert!(found.iter().all(|(_, verdict)| matches!(verdict, Verdict::Type { .. })), "{found:?}");
}

#[test]
fn other_resources_are_refused() {
    let found = verdicts(json!({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}}));
    assert_eq!(found[0].0, "spec.containers[0].resources.limits[nvidia.com/gpu]");
    assert!(matches!(found[0].1, Verdict::Refused(_)));
}

#[test]
fn compatibility_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
    let wanted = compatibility();
    if std::env::var_os("KITH_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        std::fs::write(path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == wanted, "run: KITH_WRITE_DOCS=1 cargo nextest run compatibility_page");
}

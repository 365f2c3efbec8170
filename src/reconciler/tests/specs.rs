use super::*;

pub(super) fn spec_of(container: &Value, extra: &Value) -> Result<ContainerSpec, SpecError> {
    spec_with(container, extra, &Settings::default())
}

pub(super) fn spec_with(container: &Value, extra: &Value, settings: &Settings) -> Result<ContainerSpec, SpecError> {
    let mut whole = json!({"spec": {"containers": [container]}});
    merge(&mut whole, extra);
    let pod: Pod = serde_json::from_value(web_pod(&whole)).unwrap();
    let image = ImageConfig {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        env: vec!["PATH=/image".into(), "FROM=image".into(), "A=image".into()],
        working_dir: "/srv".into(),
        user: crate::resource::ImageUser { uid: 33, gid: 34 },
        ..ImageConfig::default()
    };
    let node = NodeContext { name: "a".into(), ip: "10.0.0.1".into(), memory: 1 << 30 };
    let target = Target {
        node,
        configmaps: [config_map("c", &[("k", "v"), ("l", "w")])].into(),
        secrets: [secret("s", &[("k", "hidden"), ("l", "more")]), sealed("far")].into(),
        settings: settings.clone(),
        ..Target::default()
    };
    let reference = ContainerRef { pod: web_ref(), container: "web".into(), attempt: 0 };
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let sandbox = shelter(None);
    container_spec(reference, &pod, container, &image, &target, sandbox.ready().unwrap())
}

fn args(container: &Value) -> Vec<String> {
    spec_of(container, &json!({})).unwrap().args
}

#[test]
fn commands_follow_kubernetes() {
    assert_eq!(args(&json!({"name": "web"})), ["/entry", "default"]);
    assert_eq!(args(&json!({"name": "web", "args": ["x"]})), ["/entry", "x"]);
    assert_eq!(args(&json!({"name": "web", "command": ["/own"]})), ["/own"]);
    assert_eq!(
        args(&json!({"name": "web", "command": ["/own"], "args": ["$(A)", "$$(A)", "$(FROM)"],
        "env": [{"name": "A", "value": "1"}]})),
        ["/own", "1", "$(A)", "$(FROM)"]
    );
}

#[test]
fn variables_come_in_order_and_later_ones_win() {
    let container = json!({"name": "web",
    "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}, {"configMapRef": {"name": "none", "optional": true}}],
    "env": [
        {"name": "A", "value": "own $(C_k)"},
        {"name": "B", "value": "$(A) $(LATER)"},
        {"name": "LATER", "value": "x"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "L", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "l"}}},
        {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "z", "optional": true}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}
    ]});
    let spec = spec_of(&container, &json!({})).unwrap();
    let text: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        text,
        [
            "PATH=/image",
            "HOSTNAME=a",
            "FROM=image",
            "A=own v",
            "C_k=v",
            "C_l=w",
            "B=own v $(LATER)",
            "LATER=x",
            "NAME=web-1",
            "LABEL=web",
            "NODE=a",
            "IP=10.0.0.1",
            "L=w",
            "MEM=1024"
        ]
    );
    assert_eq!((spec.working_dir.as_str(), spec.hostname.as_str()), ("/srv", "a"));
}

#[test]
fn limits_and_who_is_killed_first() {
    let limits = |resources: &Value| {
        let spec = spec_of(&json!({"name": "web", "resources": resources}), &json!({}))?;
        Ok((spec.limits.memory, spec.limits.cpu, spec.limits.cpu_shares, spec.oom_score_adj))
    };
    assert_eq!(limits(&json!({})), Ok((None, None, 2, 1000)));
    let full = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    assert_eq!(limits(&full), Ok((Some(64 << 20), Some(500), 512, -997)));
    let half = json!({"requests": {"cpu": "250m", "memory": "512Mi"}});
    assert_eq!(limits(&half), Ok((None, None, 256, 500)));
    assert!(matches!(limits(&json!({"limits": {"memory": "lots"}})), Err(SpecError::Quantity(_))));
}

#[test]
fn what_can_not_be_resolved_is_named() {
    let error = |env: Value| spec_of(&json!({"name": "web", "env": [env]}), &json!({})).unwrap_err().to_string();
    let from = |source: &Value| error(json!({"name": "A", "valueFrom": source}));
    assert_eq!(from(&json!({"configMapKeyRef": {"name": "no", "key": "k"}})), "configmap \"no\" not found");
    assert_eq!(from(&json!({"secretKeyRef": {"name": "none", "key": "k"}})), "secret \"none\" not found");
    assert_eq!(from(&json!({"secretKeyRef": {"name": "s", "key": "z"}})), "couldn't find key z in Secret \"s\"");
    let far = from(&json!({"secretKeyRef": {"name": "far", "key": "k"}}));
    assert!(far.contains("secret \"far\"") && far.contains("no voter answers"), "{far}");
    assert!(from(&json!({"fieldRef": {"fieldPath": "spec.color"}})).contains("spec.color"));
}

#[test]
fn secrets_fill_variables_and_no_log_shows_them() {
    let container = json!({"name": "web",
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "s"}}, {"secretRef": {"name": "none", "optional": true}}],
        "env": [{"name": "ONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "TWO", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z", "optional": true}}},
            {"name": "THREE", "value": "$(S_l)!"}]});
    let spec = spec_of(&container, &json!({})).unwrap();
    let value = |name: &str| spec.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((value("S_k"), value("S_l"), value("ONE")), (Some("hidden"), Some("more"), Some("hidden")));
    assert_eq!((value("TWO"), value("THREE")), (None, Some("more!")));
    let whole = spec_of(&json!({"name": "web", "envFrom": [{"secretRef": {"name": "none"}}]}), &json!({}));
    assert_eq!(whole.unwrap_err().to_string(), "secret \"none\" not found");
    let (_, state) = secret("s", &[("k", "hidden")]);
    assert!(!format!("{state:?}").contains("hidden") && format!("{state:?}").contains("6 bytes"));
}

use serde_json::json;

use super::super::{defaults, kind};
use super::*;

fn pod(spec: &Value) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec});
    defaults::apply(&kind::POD, &mut object);
    object
}

fn errors_of(spec: &Value) -> Vec<String> {
    object(&kind::POD, &pod(spec)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_pod_passes() {
    let spec = json!({"hostNetwork": true, "containers": [{"name": "a", "image": "web:1", "ports": [{"containerPort": 80, "name": "http"}],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}, {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}, "securityContext": {"capabilities": {"add": ["CAP_CHOWN"]}}}]});
    assert_eq!(errors_of(&spec), Vec::<String>::new());
    assert_eq!(readable(&kind::POD, &pod(&spec)), Ok(()));
}

#[test]
fn a_partition_contract_that_can_not_be_read_is_refused() {
    let of = |annotations: Value| {
        let mut pod = pod(&json!({"containers": [{"name": "a", "image": "web:1"}]}));
        pod["metadata"]["annotations"] = annotations.clone();
        let found = object(&kind::POD, &pod).iter().map(ToString::to_string).collect::<Vec<_>>();
        let template = json!({"metadata": {"labels": {"app": "a"}, "annotations": annotations}, "spec": pod["spec"]});
        let mut set = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
        defaults::apply(&kind::DEPLOYMENT, &mut set);
        let in_template = object(&kind::DEPLOYMENT, &set).iter().map(ToString::to_string).collect::<Vec<_>>();
        let moved: Vec<String> = found.iter().map(|text| format!("spec.template.{text}")).collect();
        assert_eq!(in_template, moved);
        found
    };
    assert_eq!(of(json!({"kith.dev/on-partition": "stop-after=1m30s", "kith.dev/lost-after": "10s"})), [""; 0]);
    assert_eq!(of(json!({"kith.dev/on-partition": "keep"})), [""; 0]);
    assert_eq!(
        of(json!({"kith.dev/on-partition": "stop", "kith.dev/lost-after": "soon"})),
        [
            "metadata.annotations[kith.dev/on-partition]: Invalid value: \"stop\": must be keep, or stop-after= and a \
             duration, such as stop-after=1m30s",
            "metadata.annotations[kith.dev/lost-after]: Invalid value: \"soon\": must be a duration, such as 30s or 1m30s",
        ]
    );
    assert_eq!(of(json!({"kith.dev/on-partition": "stop-after=1s"})).len(), 1, "a change of leaders takes so long");
}

#[test]
fn every_mistake_is_named_at_once() {
    let found = errors_of(&json!({"restartPolicy": "Sometimes", "hostNetwork": true, "subdomain": "a.b",
        "dnsPolicy": "None", "dnsConfig": {"options": [{"name": "ndots", "value": "2 x"}]},
        "hostAliases": [{"ip": "here", "hostnames": ["A b"]}], "containers": [
        {"name": "A", "image": "web:1", "ports": [{"containerPort": 80, "hostPort": 81}, {"containerPort": 70000},
            {"containerPort": 90, "hostPort": 90, "protocol": "TCP", "hostIP": "::1"},
            {"containerPort": 90, "hostPort": 90, "protocol": "TCP", "hostIP": "127.0.0.1"}]},
        {"name": "b", "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.color"}}}],
         "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
         "securityContext": {"capabilities": {"add": ["SYS_FLY"]}}},
        {"name": "b", "image": "x"}]}));
    for start in [
        "spec.subdomain: Invalid value: \"a.b\"",
        "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver",
        "spec.dnsConfig.options[0].value: Invalid value: \"2 x\"",
        "spec.hostAliases[0].ip: Invalid value: \"here\": must be a valid IP address",
        "spec.hostAliases[0].hostnames[0]: Invalid value: \"A b\"",
        "spec.containers[0].ports[2].hostIP: Invalid value: \"::1\": must be an IPv4 address",
        "spec.containers[0].ports[3].hostPort: Duplicate value: 90",
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        "spec.containers[0].name: Invalid value: \"A\"",
        "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[0].ports[0].hostPort: Invalid value: 81",
        "spec.containers[1].image: Required value",
        "spec.containers[1].env[0].valueFrom.fieldRef.fieldPath: Unsupported value",
        "spec.containers[1].resources.requests.cpu: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        "spec.containers[1].securityContext.capabilities.add[0]: Unsupported value: \"SYS_FLY\"",
        "spec.containers[2].name: Duplicate value: \"b\"",
    ] {
        assert!(found.iter().any(|error| error.starts_with(start)), "{start} is not in {found:#?}");
    }
}

#[test]
fn security_that_makes_no_sense_is_refused() {
    let found = errors_of(
        &json!({"hostNetwork": true, "hostPID": true, "shareProcessNamespace": true, "hostUsers": false,
        "securityContext": {"seccompProfile": {"type": "Localhost"}, "supplementalGroupsPolicy": "Odd", "fsGroup": -1,
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}, {"name": "net/ipv4/tcp_syncookies", "value": "1"},
                {"name": "../x", "value": "1"}]},
        "containers": [{"name": "a", "image": "web:1", "resources": {"limits": {"kith.dev/tty": "1500m"},
                "requests": {"kith.dev/gpio": "1"}},
            "securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "procMount": "Odd",
                "capabilities": {"add": ["ALL", "cap_sys_admin"]},
                "seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "x"}}}]}),
    );
    for start in [
        "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        "spec.securityContext.supplementalGroupsPolicy: Unsupported value",
        "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        "spec.securityContext.sysctls[1].name: Duplicate value",
        "spec.securityContext.sysctls[2].name: Invalid value: \"../x\"",
        "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        "spec.hostPID: Forbidden: when `hostUsers` is false",
        "spec.containers[0].securityContext.procMount: Unsupported value",
        "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set \
         `allowPrivilegeEscalation` to false and `privileged` to true",
        "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set \
         `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"x\"",
        "spec.containers[0].resources.limits.kith.dev/tty: Invalid value: \"1500m\": must be an integer",
        "spec.containers[0].resources.requests.kith.dev/gpio: Invalid value: \"1\": must be equal to kith.dev/gpio limit",
    ] {
        assert!(found.iter().any(|error| error.starts_with(start)), "{start} is not in {found:#?}");
    }
}

fn deployment() -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "web:1"}]}}}});
    defaults::apply(&kind::DEPLOYMENT, &mut object);
    object
}

#[test]
fn deployments_select_their_own_pods() {
    assert_eq!(object(&kind::DEPLOYMENT, &deployment()), []);
    let mut other = deployment();
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let found = object(&kind::DEPLOYMENT, &other)[0].to_string();
    assert_eq!(
        found,
        "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
    );
    other["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(object(&kind::DEPLOYMENT, &other)[0].to_string(), "spec.selector: Required value");
    let mut stuck = deployment();
    stuck["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"});
    assert_eq!(object(&kind::DEPLOYMENT, &stuck)[0].path, "spec.strategy.rollingUpdate.maxUnavailable");
}

#[test]
fn some_things_never_change() {
    let old = deployment();
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(3);
    assert_eq!(update(&kind::DEPLOYMENT, &old, &new), []);
    new["spec"]["selector"]["matchLabels"]["app"] = json!("x");
    assert!(update(&kind::DEPLOYMENT, &old, &new)[0].to_string().ends_with("field is immutable"));

    let old = pod(&json!({"hostNetwork": true, "containers": [{"name": "a", "image": "web:1"}]}));
    let mut bound = old.clone();
    bound["spec"]["nodeName"] = json!("n1");
    assert_eq!(update(&kind::POD, &old, &bound), []);
    let mut moved = bound.clone();
    moved["spec"]["nodeName"] = json!("n2");
    assert!(update(&kind::POD, &bound, &moved)[0].to_string().contains("changed: nodeName"));

    let old = json!({"immutable": true, "data": {"a": "1"}});
    assert_eq!(update(&kind::CONFIG_MAP, &old, &json!({"immutable": true, "data": {"a": "2"}})).len(), 1);
}

#[test]
fn names_are_checked() {
    let mut object_ = deployment();
    object_["metadata"]["name"] = json!("Web_1");
    object_["metadata"]["labels"] = json!({"a b": "c d"});
    assert_eq!(object(&kind::DEPLOYMENT, &object_).len(), 3);
}

mod fuzz {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::table;
    use crate::resource::{Timestamp, fields};

    const NAMES: [&str; 24] = [
        "metadata",
        "name",
        "labels",
        "spec",
        "status",
        "containers",
        "ports",
        "env",
        "valueFrom",
        "fieldRef",
        "selector",
        "matchLabels",
        "template",
        "replicas",
        "resources",
        "limits",
        "cpu",
        "hostNetwork",
        "data",
        "containerStatuses",
        "state",
        "waiting",
        "ownerReferences",
        "conditions",
    ];

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9./ %=-]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(8, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(prop::sample::select(&NAMES[..]), inner, 0..6)
                    .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        /// Whatever a client sends is judged, never a panic; and judging twice finds no more typos.
        #[test]
        fn nothing_panics(original in value()) {
            for kind in kind::all() {
                let mut object_ = original.clone();
                fields::inspect(kind, &mut object_);
                let again = fields::inspect(kind, &mut object_.clone());
                let typos = again.iter().any(|finding| matches!(finding.verdict, fields::Verdict::Unknown { .. }));
                prop_assert!(!typos, "{}", original);
                defaults::apply(kind, &mut object_);
                object(kind, &object_);
                update(kind, &original, &object_);
                table::cells(kind, &object_, Timestamp(0));
                let _ = readable(kind, &object_);
            }
        }
    }
}

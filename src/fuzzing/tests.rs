//! Every seed and every input that once crashed, through its target; and the seeds themselves, made
//! from real values.
#![expect(clippy::disallowed_methods, reason = "seeds are files, and a run without a seed draws one")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::Config;
use crate::consensus::fuzz::seeds as messages_seeds;
use crate::identity::{Enrolment, Identity, Role, Token, TokenTerms};
use crate::store::codec;

/// Runs a folder of inputs; returns how many there were.
fn run(folder: &str) -> usize {
    let mut count = 0;
    for target in TARGETS {
        let inputs = fs::read_dir(Path::new(folder).join(target.name)).into_iter().flatten().flatten();
        for input in inputs {
            let bytes = fs::read(input.path()).unwrap();
            eprintln!("{}", input.path().display());
            (target.run)(&bytes);
            count += 1;
        }
    }
    count
}

#[test]
fn every_seed_and_every_input_that_once_crashed_passes() {
    assert!(run("fuzz/corpus") >= TARGETS.len());
    run("fuzz/regressions");
}

#[test]
fn every_target_has_a_seed_and_takes_nonsense() {
    for target in TARGETS {
        let seeds = fs::read_dir(Path::new("fuzz/corpus").join(target.name)).map_or(0, Iterator::count);
        assert!(seeds > 0, "fuzz/corpus/{} is empty: KITH_WRITE_SEEDS=1 cargo test write_seeds", target.name);
        for nonsense in [&b""[..], b"\0", b"\x01\xff\xff\xff\xff\xff", &[0xff; 300]] {
            (target.run)(nonsense);
        }
    }
}

/// Writes the seeds anew: `KITH_WRITE_SEEDS=1 cargo nextest run --lib write_seeds`.
#[test]
fn write_seeds() {
    if std::env::var_os("KITH_WRITE_SEEDS").is_none() {
        return;
    }
    for (target, name, bytes) in seeds() {
        assert!(find(target).is_some(), "{target}");
        let folder = Path::new("fuzz/corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

type Seed = (&'static str, &'static str, Vec<u8>);

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::create(dir.path()).unwrap();
    let member = identity.member("d1", vec!["10.0.0.1:7443".parse().unwrap()], 6443);
    let terms = TokenTerms { role: Role::Device, uses: 1, expires: NOW, created: NOW, created_by: "test".into() };
    let (enrolment, token) = Enrolment::found(&identity, member.clone(), terms).unwrap();
    enrolment.store(dir.path()).unwrap();
    seeds.push(("files", "enrolment", fs::read(Enrolment::path(dir.path())).unwrap()));
    seeds.push(("files", "keys", fs::read(Identity::path(dir.path())).unwrap()));
    seeds.push(("token", "token", token.to_string().into_bytes()));
    seeds.push(("token", "bare", Token::issue("f", vec![]).unwrap().to_string().into_bytes()));
    seeds.push(("certificate", "device", identity.certificate().to_vec()));
    let pem = enrolment.authority.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let der = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, pem).unwrap();
    seeds.push(("certificate", "authority", der));
    seeds.push(("config", "default", toml::to_string(&Config::default()).unwrap().into_bytes()));
    seeds.push((
        "config",
        "metered",
        b"profile = \"metered\"\nlost_after_seconds = 900\nlabels = { a = \"b\" }\n".to_vec(),
    ));
    seeds.push(("frame", "whole", [&[0, 0, 0, 5][..], &[3, 1, 2, 3, 2, 4, 5]].concat()));
    seeds.push(("frame", "large", vec![0, 1, 0, 1, 9]));
    for (name, bytes) in messages_seeds(&member) {
        seeds.push(("message", name, bytes));
    }
    let upgrades = crate::upgrade::fuzz::seeds().into_iter().chain(crate::agent::fuzz::seeds());
    seeds.extend(upgrades.map(|(name, bytes)| ("upgrade", name, bytes)));
    let [entry, transaction] = crate::storage::fuzz::seeds();
    seeds.push(("entry", "transaction", entry));
    seeds.push(("transaction", "put", transaction));
    seeds.push(("snapshot", "small", crate::storage::fuzz::small_snapshot()));
    seeds.push(("wal", "records", crate::storage::fuzz::wal_seed()));
    seeds.extend(crate::api::fuzz::spdy_seeds().into_iter().map(|(name, bytes)| ("spdy", name, bytes)));
    texts(&mut seeds);
    let (layer, archive) = archives();
    seeds.push(("layer", "layer", layer));
    seeds.push(("archive", "docker", archive));
    seeds.push((
        "zstd",
        "frame",
        ruzstd::encoding::compress_to_vec(&[7; 3000][..], ruzstd::encoding::CompressionLevel::Fastest),
    ));
    seeds.push((
        "registry",
        "challenge",
        b"Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull\", Basic".to_vec(),
    ));
    seeds.push(("registry", "token", br#"{"token": "abc", "access_token": "def", "expires_in": 300}"#.to_vec()));
    seeds.push((
        "registry",
        "refusal",
        br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#.to_vec(),
    ));
    seeds.push(("registry", "secret", br#"{"auths": {"https://a:5000/v2/": {"auth": "dTpw"}}}"#.to_vec()));
    let platforms = br#"{"schemaVersion": 2, "manifests": [{"digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "size": 1, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}]}"#;
    seeds.push(("registry", "index", platforms.to_vec()));
    assert_eq!(codec::VERSION, 1, "seeds of the release before stay, beside new ones");
    seeds
}

fn texts(seeds: &mut Vec<Seed>) {
    let hello = fs::read("configs/examples/hello.yaml").unwrap();
    seeds.push(("manifest", "hello", hello));
    seeds.push(("manifest", "anchors", b"a: &x {b: [1, 2.5, ~]}\nc: *x\n---\n- 'q'\n- |\n  t\n".to_vec()));
    let words = "1500m\n1.5Gi\n-3e-2\na=b,c!=d,e in (f,g),!h\nmetadata.name=x\nspec.nodeName!=y\nhello:1\n\
                 registry.test:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nweb-0\n";
    seeds.push(("words", "all", words.as_bytes().to_vec()));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"app": "a"}},
        "spec": {"hostNetwork": true, "restartPolicy": "Always", "nodeSelector": {"a": "b"},
            "containers": [{"name": "c", "image": "hello:1", "command": ["/bin/hello", "$(A)"],
                "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "ports": [{"containerPort": 80}], "resources": {"limits": {"memory": "32Mi", "cpu": "100m"}}}]}});
    let request = |path: &str, kind: &str, body: &Value| {
        format!("{path}\nlimit=5&labelSelector=a%3Db\n{kind}\n{body}").into_bytes()
    };
    let json_type = "application/json";
    seeds.push(("request", "pod", request("/api/v1/namespaces/default/pods", json_type, &pod)));
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod["spec"]}}});
    seeds.push((
        "request",
        "deployment",
        request("/apis/apps/v1/namespaces/default/deployments", json_type, &deployment),
    ));
    let configmap = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    seeds.push(("request", "configmap", request("/api/v1/namespaces/default/configmaps", json_type, &configmap)));
    let patches = [
        (
            "json-patch",
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/labels/c", "value": "d"}]),
        ),
        ("merge-patch", "application/merge-patch+json", json!({"metadata": {"labels": null}})),
        (
            "strategic-patch",
            "application/strategic-merge-patch+json",
            json!({"spec": {"containers": [{"name": "c", "$patch": "delete"}, {"name": "d", "image": "e"}]}}),
        ),
    ];
    for (name, kind, patch) in patches {
        seeds.push(("request", name, request("/api/v1/namespaces/default/pods", kind, &patch)));
    }
}

/// The tar of a layer, and an archive as `docker save` writes it around that layer.
fn archives() -> (Vec<u8>, Vec<u8>) {
    let tar = |files: &BTreeMap<&str, Vec<u8>>| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        builder
    };
    let mut layer =
        tar(&[("bin/a", b"a".to_vec()), ("etc/.wh.b", vec![]), ("etc/passwd", b"root:x:0:0\n".to_vec())].into());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    layer.append_link(&mut link, "bin/sh", "a").unwrap();
    let layer = layer.into_inner().unwrap();
    let digest = crate::images::Digest::of(&layer);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/a"], "User": "0"},
        "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["hello:1"], "Layers": ["layer.tar"]}]);
    let files = [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer.clone()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ];
    (layer, tar(&files.into()).into_inner().unwrap())
}

/// Changes of one input: what random chance, a cut, a repetition and a foreign piece do to it.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'-', b'"', b'\n'][rng.random_range(0..8)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            4 if at < bytes.len() => {
                let end = rng.random_range(at..=bytes.len().min(at + 40));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 if at < bytes.len() => drop(bytes.drain(at..rng.random_range(at..=bytes.len().min(at + 20)))),
            _ if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let end = rng.random_range(from..=other.len().min(from + 60));
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => {}
        }
    }
}

/// A taste of what `make fuzz` does, in every test run: `KITH_SEED` plays it again, and
/// `KITH_FUZZ_ROUNDS` makes it longer.
#[test]
fn damaged_seeds_break_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("KITH_SEED").unwrap_or_else(rand::random);
    let rounds = number("KITH_FUZZ_ROUNDS").unwrap_or(300);
    println!(
        "seed {seed}; once more: KITH_SEED={seed} KITH_FUZZ_ROUNDS={rounds} cargo nextest run --lib damaged_seeds"
    );
    let mut failed = Vec::new();
    for target in TARGETS {
        let mut rng = StdRng::seed_from_u64(seed);
        let folder = fs::read_dir(Path::new("fuzz/corpus").join(target.name)).into_iter().flatten().flatten();
        let mut inputs: Vec<_> = folder.map(|input| input.path()).collect();
        inputs.sort();
        let inputs: Vec<_> = inputs.iter().map(|path| fs::read(path).unwrap()).collect();
        for _ in 0..if inputs.is_empty() { 0 } else { rounds } {
            let mut bytes = inputs[rng.random_range(0..inputs.len())].clone();
            mutate(&mut bytes, &inputs[rng.random_range(0..inputs.len())], &mut rng);
            if std::panic::catch_unwind(|| (target.run)(&bytes)).is_err() {
                println!("{}: {}", target.name, String::from_utf8_lossy(&bytes));
                println!("{}: {}", target.name, hex::encode(&bytes));
                failed.push(target.name);
                break;
            }
        }
    }
    assert!(failed.is_empty(), "targets that broke: {failed:?}");
}

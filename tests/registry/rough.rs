//! Registries that break, lie or mean harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kith::config::ImagesConfig;
use kith::images::{ImageError, Keychain, Progress};
use serde_json::json;

use crate::place::{Place, name, plain, pull};
use crate::scripted::{Honest, Reply, Request, Scripted};

const LAYER: usize = 3 << 20;

/// A place with an image, and who serves it.
fn source() -> (Place, kith::images::Image, Honest) {
    let place = Place::new();
    let image = place.image("hello:1", LAYER);
    let honest = Honest::new(place.path("images"), &image);
    (place, image, honest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_download_goes_on_where_it_broke() {
    let (_source, image, honest) = source();
    let layer = image.layers[0].blob.to_string();
    for ranges in [true, false] {
        let (honest, layer, count) = (honest.clone(), layer.clone(), AtomicUsize::new(0));
        let server = Scripted::start(move |request| {
            let asked = Request { from: request.from.filter(|_| ranges), ..request.clone() };
            let mut reply = honest.reply(&asked);
            // Twice the connection breaks after a third of the layer.
            if request.path.ends_with(&layer) && count.fetch_add(1, Ordering::SeqCst) < 2 {
                reply.cut = Some(LAYER / 3);
            }
            reply
        });
        let place = Place::new();
        let puller = place.puller(&[(&server.host, plain())]);
        let pulled = pull(&puller, &format!("{}/hello:1", server.host)).await.unwrap();
        assert_eq!(place.hello(&pulled.image), "hello:1");
        let asked: Vec<_> = server.seen.lock().unwrap().iter().filter_map(|request| request.from).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        let whole = image.size + u64::from(!ranges) * 2 * (LAYER as u64 / 3);
        assert!(pulled.brought <= whole, "{} of {whole} bytes were brought", pulled.brought);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_dropped_leaves_its_part_for_the_next() {
    let (_source, image, honest) = source();
    let layer = image.layers[0].blob.to_string();
    let cut = Arc::new(AtomicUsize::new(LAYER / 2));
    let (limit, path) = (cut.clone(), layer.clone());
    let server = Scripted::start(move |request| {
        let mut reply = honest.reply(request);
        if request.path.ends_with(&path) {
            reply.cut = Some(limit.load(Ordering::SeqCst)).filter(|cut| *cut > 0);
            if reply.cut.is_some() && request.from.is_some() {
                // What is asked for again never comes, until somebody else asks.
                std::thread::sleep(std::time::Duration::from_hours(1));
            }
        }
        reply
    });
    let place = Place::new();
    let puller = place.puller(&[(&server.host, plain())]);
    let wanted = name(&format!("{}/hello:1", server.host));
    let progress = Progress::default();
    let keychain = Keychain::default();
    {
        let pulling = puller.pull(&wanted, &keychain, &progress);
        let waiting_again = async {
            while server.seen.lock().unwrap().iter().all(|request| request.from.is_none()) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = pulling => panic!("{done:?}"),
            () = waiting_again => {}
        }
    }
    cut.store(0, Ordering::SeqCst);
    let again = puller.pull(&wanted, &Keychain::default(), &Progress::default()).await.unwrap();
    assert!(again.brought < image.size * 3 / 4, "{} of {} bytes came again", again.brought, image.size);
    assert_eq!(place.hello(&again.image), "hello:1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_one_image_share_the_work() {
    let (_source, image, honest) = source();
    let server = Scripted::start(move |request| honest.reply(request));
    let place = Place::new();
    let puller = Arc::new(place.puller(&[(&server.host, plain())]));
    let pulls = (0..8).map(|number| {
        let (puller, text) = (puller.clone(), format!("{}/hello:{number}", server.host));
        tokio::spawn(async move { pull(&puller, &text).await.unwrap().brought })
    });
    let mut brought = 0;
    for pull in pulls.collect::<Vec<_>>() {
        brought += pull.await.unwrap();
    }
    assert_eq!(server.count(&image.layers[0].blob.to_string()), 1);
    assert_eq!(brought, image.size);
    assert_eq!(place.store.list().unwrap().len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_it_claims_to_be_is_refused() {
    let (_source, image, honest) = source();
    let layer = image.layers[0].blob.to_string();
    type Lie = Box<dyn Fn(Reply) -> Reply + Send + Sync>;
    let lies: Vec<(&str, Lie)> = vec![
        (
            "have the digest",
            Box::new(|mut reply: Reply| {
                reply.body[5000] ^= 1;
                reply
            }),
        ),
        (
            "more than the",
            Box::new(|mut reply: Reply| {
                reply.body.extend_from_slice(&[0; 100]);
                reply
            }),
        ),
        (
            "it ended after",
            Box::new(|mut reply: Reply| {
                reply.body.truncate(1000);
                reply
            }),
        ),
        (
            "another part",
            Box::new(|reply: Reply| Reply { status: 206, ..reply }.header("content-range", "bytes 7-9/10")),
        ),
        ("500", Box::new(|_| Reply::new(500, r#"{"errors": [{"message": "disk\u0007 on fire"}]}"#))),
    ];
    for (expected, lie) in lies {
        let (honest, layer) = (honest.clone(), layer.clone());
        let server = Scripted::start(move |request| {
            let reply = honest.reply(&Request { from: None, ..request.clone() });
            if request.path.ends_with(&layer) { lie(reply) } else { reply }
        });
        let place = Place::new();
        let error = pull(&place.puller(&[(&server.host, plain())]), &format!("{}/x:1", server.host)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!text.contains('\u{7}'), "{text:?}");
        assert!(place.store.list().unwrap().is_empty(), "{expected}: it was named");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_that_lead_nowhere_end() {
    let (_source, image, honest) = source();
    let digest = image.digest.to_string();
    let index = |media: &str, digest: &str, platform: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": media, "manifests":
            [{"mediaType": "x", "digest": digest, "size": 1, "platform": platform}]})
        .to_string()
    };
    let own = json!({"os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }});
    let oci = "application/vnd.oci.image.index.v1+json";
    let other = json!({"os": "linux", "architecture": "s390x"});
    let many: Vec<_> = (0..300).map(|_| json!({"digest": digest, "size": 1})).collect();
    let layers = json!({"schemaVersion": 2, "config": {"digest": digest, "size": 1}, "layers": many}).to_string();
    let huge = json!({"schemaVersion": 2, "config": {"digest": digest, "size": u64::MAX}, "layers": []}).to_string();
    let cases: Vec<(&str, String)> = vec![
        ("digest", index(oci, &format!("sha256:{}", "0".repeat(64)), own.clone())),
        ("s390x", index(oci, &digest, other)),
        ("300 layers", layers),
        ("more than a blob may have", huge),
        ("first schema", json!({"schemaVersion": 1, "name": "x", "fsLayers": []}).to_string()),
        ("damaged", "[1, 2".into()),
        ("damaged", json!({"schemaVersion": 2, "config": {"digest": "md5:1", "size": 1}, "layers": []}).to_string()),
        ("longer than", "x".repeat(9 << 20)),
    ];
    for (expected, document) in cases {
        let honest = honest.clone();
        let body = document.clone();
        let server = Scripted::start(move |request| match request.path.contains("/manifests/") {
            true if request.path.ends_with(":1") || request.path.ends_with("/1") => Reply::new(200, body.clone()),
            // Whatever is asked for, it is the same index again: only its digest ends this.
            true => Reply::new(200, body.clone()),
            false => honest.reply(request),
        });
        let place = Place::new();
        let error = pull(&place.puller(&[(&server.host, plain())]), &format!("{}/x:1", server.host)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(server.seen.lock().unwrap().len() < 12);
    }
    // Indexes that hold each other's true digests can only go deep, and are followed so far.
    let mut chain = vec![index(oci, &digest, own.clone())];
    for _ in 0..8 {
        let inner = sha256(chain.last().unwrap());
        chain.push(index(oci, &inner, own.clone()));
    }
    let documents: std::collections::BTreeMap<String, String> =
        chain.iter().map(|text| (sha256(text), text.clone())).collect();
    let top = chain.last().unwrap().clone();
    let fallback = honest.clone();
    let server = Scripted::start(move |request| {
        let last = request.path.rsplit('/').next().unwrap();
        match documents.get(last) {
            Some(text) => Reply::new(200, text.clone()),
            None if last == "1" => Reply::new(200, top.clone()),
            None => fallback.reply(request),
        }
    });
    let place = Place::new();
    let puller = place.puller(&[(&server.host, plain())]);
    let error = pull(&puller, &format!("{}/x:1", server.host)).await.unwrap_err().to_string();
    assert!(error.contains("too deep"), "{error}");
    let found = pull(&puller, &format!("{}/x@{}", server.host, sha256(&chain[1]))).await.unwrap().image;
    assert_eq!(found.digest, image.digest);
    // By the index's digest it is found again without a registry.
    assert!(place.store.resolve(&name(&format!("{}/x@{}", server.host, sha256(&chain[1])))).unwrap().is_some());
    assert!(place.store.resolve(&name(&format!("{}/x:latest", server.host))).unwrap().is_none());
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(text.as_bytes())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_followed_without_the_password_and_not_for_ever() {
    let (origin, image, honest) = source();
    let store = Scripted::start(move |request| honest.reply(request));
    let (elsewhere, layer) = (store.host.clone(), image.layers[0].blob.to_string());
    let honest = Honest::new(origin.path("images"), &image);
    let server = Scripted::start(move |request| {
        if request.authorization.is_none() {
            return Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\"");
        }
        if request.path.ends_with(&layer) {
            return Reply::new(307, "").header("location", format!("http://{elsewhere}{}", request.path));
        }
        if request.path.contains("/loop/") {
            return Reply::new(302, "").header("location", request.path.clone());
        }
        honest.reply(request)
    });
    let place = Place::new();
    let mut keychain = Keychain::default();
    let file = json!({"auths": {&server.host: {"username": "u", "password": "p"}}}).to_string();
    keychain.add_docker_config(file.as_bytes(), "test").unwrap();
    let puller = place.puller(&[(&server.host, plain())]);
    let wanted = name(&format!("{}/x:1", server.host));
    puller.pull(&wanted, &keychain, &Progress::default()).await.unwrap();
    let seen = store.seen.lock().unwrap().clone();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.authorization.is_none()), "{seen:?}");
    let looping = name(&format!("{}/loop/x:1", server.host));
    let error = puller.pull(&looping, &keychain, &Progress::default()).await.unwrap_err();
    assert!(matches!(&error, ImageError::Registry(_)) && error.to_string().contains("redirects more than"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_passes_on_what_is_asked_of_a_registry() {
    let (_source, image, honest) = source();
    let registry = "http://reg.test:5000";
    let proxy = Scripted::start(move |request| match request.path.strip_prefix(registry) {
        Some(path) => honest.reply(&Request { path: path.to_owned(), ..request.clone() }),
        None => Reply::new(400, "no proxy is asked like that"),
    });
    let place = Place::new();
    let images = ImagesConfig { proxy: format!("http://{}", proxy.host), ..ImagesConfig::default() };
    let puller = place.puller_with(&[("reg.test:5000", plain())], &images);
    let pulled = pull(&puller, "reg.test:5000/hello:1").await.unwrap();
    assert_eq!((pulled.image.digest.clone(), place.hello(&pulled.image)), (image.digest, "hello:1".into()));
    // This very machine is not reached through it, nor what is exempt.
    for exempt in ["127.0.0.1:1", "x.far.test:5000"] {
        let before = proxy.seen.lock().unwrap().len();
        let images = ImagesConfig { no_proxy: vec![".far.test".into()], ..images.clone() };
        let puller = Place::new().puller_with(&[(exempt, plain())], &images);
        assert!(pull(&puller, &format!("{exempt}/hello:1")).await.unwrap_err().is_unreachable());
        assert_eq!(proxy.seen.lock().unwrap().len(), before, "{exempt}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_goes_through_a_tunnel_of_the_proxy() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let known = head.iter().any(|line| line.eq_ignore_ascii_case("proxy-authorization: basic am86c2VjcmV0"));
            let _ = sender.send(head[0].clone());
            // What is behind the tunnel speaks no TLS.
            let answer = if known { "HTTP/1.1 200 OK\r\n\r\nplain text" } else { "HTTP/1.1 407 Who\r\n\r\n" };
            let _ = (&stream).write_all(answer.as_bytes());
            // What the client says to that is read, or it would see a reset before the answer.
            let _ = std::io::copy(&mut (&stream), &mut std::io::sink());
        }
    });
    for (user, parts) in [("", ["connect", "USER:PASSWORD"]), ("jo:secret@", ["TLS handshake", "insecure = true"])] {
        let images = ImagesConfig { proxy: format!("http://{user}{host}"), ..ImagesConfig::default() };
        let place = Place::new();
        let puller = place.puller_with(&[], &images);
        let error = pull(&puller, "reg.test/hello:1").await.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(asked.recv().unwrap(), "CONNECT reg.test:443 HTTP/1.1");
        while asked.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn a_name_without_a_registry_says_what_to_put_where() {
    let place = Place::new();
    let error = pull(&place.puller(&[]), "hello:1").await.unwrap_err();
    assert!(!error.is_unreachable());
    let error = error.to_string();
    for part in ["hello:1", "agent.toml", "[registries.\"docker.io\"]", "mirrors = [\"HOST:PORT\"]"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

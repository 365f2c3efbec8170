//! Debian's registry, with images that umoci made and skopeo brought there.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kith::config::RegistryConfig;
use kith::images::{Format, Keychain, Progress};
use serde_json::json;

use crate::debian::{Registry, Wish};
use crate::place::{Place, name, plain, pull, run, umoci};
use crate::scripted::{Reply, Scripted};

const INSECURE: &str = "--dest-tls-verify=false";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_by_tag_and_by_digest_and_pushed_back() {
    let (place, registry) = (Place::new(), Registry::start(&Wish::default()));
    let layout = umoci(&place.path(""), "from umoci");
    run("skopeo", &["copy", "-q", INSECURE, &format!("oci:{layout}"), &registry.docker("team/app:1")]);
    let puller = place.puller(&[(&registry.host, plain())]);
    let image = pull(&puller, &format!("{}/team/app:1", registry.host)).await.unwrap();
    assert!(image.brought > 0);
    assert_eq!(place.hello(&image.image), "from umoci");
    assert_eq!((image.image.config.cmd.join(" "), image.image.config.user.uid), ("/bin/true".into(), 7));
    // Again, there is nothing to bring.
    let again = pull(&puller, &format!("{}/team/app:1", registry.host)).await.unwrap();
    assert_eq!((again.brought, &again.image), (0, &image.image));

    let other = Place::new();
    let puller = other.puller(&[(&registry.host, plain())]);
    let pinned = format!("{}/team/app@{}", registry.host, image.image.digest);
    let found = pull(&puller, &pinned).await.unwrap().image;
    assert_eq!((found.name.to_string(), found.digest.clone()), (pinned, image.image.digest.clone()));
    let gone = pull(&puller, &format!("{}/team/app:9", registry.host)).await.unwrap_err().to_string();
    for part in [&*registry.host, "404 Not Found", "team/app:9", "check the name and the tag"] {
        assert!(gone.contains(part), "{part}: {gone}");
    }

    // Pushed under another name, skopeo finds the same image there.
    let target = format!("{}/copy/of:2", registry.host);
    let progress = Progress::default();
    other.store.resolve(&found.name).unwrap().unwrap();
    puller.push(&found.name, &name(&target), &Keychain::default(), &progress).await.unwrap();
    let seen = run("skopeo", &["inspect", "--tls-verify=false", &registry.docker("copy/of:2")]);
    assert!(seen.contains(&found.digest.to_string()), "{seen}");
    let before = progress.brought();
    puller.push(&found.name, &name(&target), &Keychain::default(), &progress).await.unwrap();
    assert_eq!(progress.brought(), before, "what is there already is not sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_zstd_come_whole_and_skopeo_copies_what_is_saved() {
    let (place, registry) = (Place::new(), Registry::start(&Wish::default()));
    let layout = umoci(&place.path(""), "zstd");
    let (plain_dir, target) = (format!("dir:{}", place.path("dir").display()), registry.docker("zstd:1"));
    run("skopeo", &["copy", "-q", "--dest-decompress", &format!("oci:{layout}"), &plain_dir]);
    run("skopeo", &["copy", "-q", INSECURE, "--dest-compress-format", "zstd", "--format", "oci", &plain_dir, &target]);
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &target]);
    assert!(raw.contains("tar+zstd"), "{raw}");
    let puller = place.puller(&[(&registry.host, plain())]);
    let image = pull(&puller, &format!("{}/zstd:1", registry.host)).await.unwrap().image;
    assert_eq!(place.hello(&image), "zstd");

    for (format, kind) in [(Format::Oci, "oci-archive"), (Format::Docker, "docker-archive")] {
        let archive = place.path(kind);
        place.store.save(std::slice::from_ref(&image.name), &archive, format).unwrap();
        let (source, target) = (format!("{kind}:{}", archive.display()), registry.docker(&format!("saved:{kind}")));
        run("skopeo", &["copy", "-q", INSECURE, &source, &target]);
        let back = pull(&puller, &format!("{}/saved:{kind}", registry.host)).await.unwrap().image;
        assert_eq!(
            back.layers.iter().map(|layer| &layer.tar).collect::<Vec<_>>(),
            image.layers.iter().map(|layer| &layer.tar).collect::<Vec<_>>()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_and_a_password_are_needed_and_enough() {
    let place = Place::new();
    let registry = Registry::start(&Wish { tls: true, basic: true, ..Wish::default() });
    let layout = umoci(&place.path(""), "private");
    let source = format!("oci:{layout}");
    run("skopeo", &["copy", "-q", INSECURE, "--dest-creds", "reader:secret", &source, &registry.docker("app:1")]);
    let wanted = format!("{}/app:1", registry.host);
    let with = |config: RegistryConfig| place.puller(&[(&registry.host, config)]);

    let untrusted = pull(&with(RegistryConfig::default()), &wanted).await.unwrap_err();
    assert!(untrusted.is_unreachable() && untrusted.to_string().contains("ca_file"), "{untrusted}");
    let trusting = RegistryConfig { ca_file: Some(registry.ca.clone()), ..RegistryConfig::default() };
    let nobody = pull(&with(trusting.clone()), &wanted).await.unwrap_err();
    assert!(!nobody.is_unreachable(), "{nobody}");
    for part in ["401", "imagePullSecrets", "agent.toml"] {
        assert!(nobody.to_string().contains(part), "{nobody}");
    }
    let secret = |password: &str| {
        let auth = STANDARD.encode(format!("reader:{password}"));
        let mut keychain = Keychain::default();
        let file = json!({"auths": {&registry.host: {"auth": auth}}}).to_string();
        keychain.add_docker_config(file.as_bytes(), "secret default/pull").unwrap();
        keychain
    };
    let puller = with(trusting.clone());
    let wrong = puller.pull(&name(&wanted), &secret("guess"), &Progress::default()).await.unwrap_err().to_string();
    assert!(wrong.contains("401") && wrong.contains("check the user name") && !wrong.contains("guess"), "{wrong}");
    let image = puller.pull(&name(&wanted), &secret("secret"), &Progress::default()).await.unwrap().image;
    assert_eq!(place.hello(&image), "private");

    let other = Place::new();
    let password = other.path("password");
    std::fs::write(&password, "secret\n").unwrap();
    let config = RegistryConfig { username: "reader".into(), password_file: Some(password), ..trusting };
    pull(&other.puller(&[(&registry.host, config)]), &wanted).await.unwrap();
    // Plain HTTP is spoken only where the settings say so.
    let plainly = pull(&place.puller(&[(&registry.host, plain())]), &wanted).await.unwrap_err().to_string();
    assert!(plainly.contains("400"), "{plainly}");
}

/// A token server with the key whose certificate the registry trusts.
fn token_server(grant: Arc<Mutex<String>>) -> (Scripted, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let (der, pem) = (STANDARD.encode(certificate.der()), certificate.pem());
    let pkcs8 = key.serialize_der();
    let server = Scripted::start(move |request| {
        let basic = format!("Basic {}", STANDARD.encode("reader:secret"));
        if request.authorization.as_deref() != Some(&basic) {
            return Reply::new(401, r#"{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}"#);
        }
        let rng = ring::rand::SystemRandom::new();
        let signer =
            ring::signature::EcdsaKeyPair::from_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &rng);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let actions: Vec<String> = grant.lock().unwrap().split(',').map(str::to_owned).collect();
        let claims = json!({"iss": "test", "sub": "reader", "aud": "here", "exp": now + 300, "nbf": now - 60, "iat": now,
            "jti": "1", "access": [{"type": "repository", "name": "app", "actions": actions}]});
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [der]});
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(head), encode(claims));
        let signature = signer.unwrap().sign(&rng, text.as_bytes()).unwrap();
        Reply::new(200, json!({"token": format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))}).to_string())
    });
    (server, pem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_with_the_password_and_its_limits_are_told() {
    let place = Place::new();
    let grant = Arc::new(Mutex::new("pull,push".to_owned()));
    let (tokens, certificate) = token_server(grant.clone());
    let bundle = place.path("bundle.pem");
    std::fs::write(&bundle, certificate).unwrap();
    let auth = format!(
        "auth:\n  token: {{realm: 'http://{}/token', service: here, issuer: test, rootcertbundle: {}}}\n",
        tokens.host,
        bundle.display()
    );
    let registry = Registry::start(&Wish { auth, ..Wish::default() });
    let password = place.path("password");
    std::fs::write(&password, "secret").unwrap();
    let config = RegistryConfig { username: "reader".into(), password_file: Some(password), ..plain() };
    let image = place.image("hello:1", 10_000);
    let wanted = format!("{}/app:1", registry.host);
    let puller = place.puller(&[(&registry.host, config.clone())]);
    puller.push(&image.name, &name(&wanted), &Keychain::default(), &Progress::default()).await.unwrap();
    let other = Place::new();
    let found = pull(&other.puller(&[(&registry.host, config.clone())]), &wanted).await.unwrap().image;
    assert_eq!(other.hello(&found), "hello:1");
    assert!(tokens.count("service=here&scope=repository%3Aapp%3Apull") > 0, "{:?}", tokens.seen.lock().unwrap());

    // Somebody without a password gets no token.
    let refused = pull(&other.puller(&[(&registry.host, plain())]), &wanted).await.unwrap_err().to_string();
    assert!(refused.contains("401") && refused.contains("who are you"), "{refused}");
    // A token that allows only to read does not let one write.
    *grant.lock().unwrap() = "pull".into();
    let target = name(&format!("{}/app:2", registry.host));
    let refused = puller.push(&image.name, &target, &Keychain::default(), &Progress::default()).await.unwrap_err();
    assert!(refused.to_string().contains("401") && !refused.to_string().contains("secret"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_are_asked_first_and_the_registry_itself_at_last() {
    let (place, registry) = (Place::new(), Registry::start(&Wish::default()));
    let layout = umoci(&place.path(""), "mirrored");
    run("skopeo", &["copy", "-q", INSECURE, &format!("oci:{layout}"), &registry.docker("hub/library/app:1")]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mirrors = vec![closed.clone(), format!("{}/hub", registry.host)];
    let hub = RegistryConfig { mirrors, ..plain() };
    let puller = place.puller(&[("docker.io", hub), (&closed, plain()), (&registry.host, plain())]);
    let image = pull(&puller, "app:1").await.unwrap().image;
    assert_eq!((image.name.to_string(), place.hello(&image)), ("app:1".into(), "mirrored".into()));
    // With a mirror that answers nothing and a registry that has it, the registry is asked.
    let config = RegistryConfig { mirrors: vec![closed.clone()], ..plain() };
    let puller = place.puller(&[(&registry.host, config), (&closed, plain())]);
    pull(&puller, &format!("{}/hub/library/app:1", registry.host)).await.unwrap();
    let nobody = pull(&place.puller(&[(&closed, plain())]), &format!("{closed}/x")).await.unwrap_err();
    assert!(nobody.is_unreachable() && nobody.to_string().contains(&closed), "{nobody}");
}

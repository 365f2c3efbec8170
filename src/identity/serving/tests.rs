use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::Authority;
use super::*;

fn identity() -> Identity {
    Identity::create(tempfile::tempdir().unwrap().path()).unwrap()
}

fn client(authority: &Authority, credentials: Option<(&str, &str)>) -> Arc<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match credentials {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    })
}

async fn user_seen(
    server: Arc<ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    name: &str,
) -> std::io::Result<Option<User>> {
    let (near, far) = duplex(64 << 10);
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        let user = stream.get_ref().1.peer_certificates().and_then(|chain| client_user(&chain[0]));
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(user)
    };
    let ask = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        Ok::<_, std::io::Error>(())
    };
    let (user, asked) = tokio::join!(serve, ask);
    asked.and(user)
}

#[tokio::test]
async fn users_and_groups_are_those_of_the_certificate() {
    let (device, authority) = (identity(), Authority::generate().unwrap());
    let names = ["alpha".to_owned(), "localhost".to_owned()];
    let address = "192.0.2.7".parse().unwrap();
    let serving = authority.sign_serving(&device.serving_public_key(), "alpha", &names, &[address]).unwrap();
    let server = tls_server_config(authority.certificate(), &serving, &device).unwrap();

    let admin = authority.issue_client("admin", &["system:masters".into(), "ops".into()]).unwrap();
    let config = client(&authority, Some((&admin.certificate, &admin.key)));
    let expected = User { name: "admin".into(), groups: vec!["system:masters".into(), "ops".into()] };
    for name in ["alpha", "localhost", "192.0.2.7"] {
        let seen = user_seen(server.clone(), config.clone(), name).await.unwrap();
        assert_eq!(seen, Some(expected.clone()), "{name}");
    }
    assert_eq!(user_seen(server.clone(), client(&authority, None), "alpha").await.unwrap(), None);
    assert!(user_seen(server.clone(), config, "beta").await.is_err(), "a name that was not signed for");

    let other = Authority::generate().unwrap();
    let forged = other.issue_client("admin", &["system:masters".into()]).unwrap();
    let forged = client(&authority, Some((&forged.certificate, &forged.key)));
    assert!(user_seen(server, forged, "alpha").await.is_err(), "a certificate of another authority");
}

#[test]
fn a_lost_clock_locks_no_user_out() {
    let authority = Authority::generate().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Tolerant::new(Arc::new(roots), provider).unwrap();
    let admin = authority.issue_client("admin", &[]).unwrap();
    let certificate = CertificateDer::from_pem_slice(admin.certificate.as_bytes()).unwrap();
    for seconds in [0, 1, EARLIEST_NOW, 4_102_444_800, 32_503_680_000] {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_client_cert(&certificate, &[], now).unwrap_or_else(|error| panic!("at {seconds}: {error}"));
    }
}

#[test]
fn a_sealed_authority_signs_again_after_a_restart() {
    let (one, two) = (identity(), identity());
    let authority = Authority::generate().unwrap();
    let seal = authority.seal([(1, &one.member("one", Vec::new(), 1))]).unwrap();
    let seal = super::super::Seal::from_object(&seal.to_object()).unwrap();
    assert!(matches!(seal.open(2, &two), Err(IdentityError::NotSealed { member: 2 })));
    assert!(seal.open(1, &two).is_err());
    let opened = seal.open(1, &one).unwrap();
    assert_eq!((opened.fleet(), opened.certificate()), (authority.fleet(), authority.certificate()));

    let mut swapped = seal.clone();
    swapped.certificate = Authority::generate().unwrap().certificate().to_owned();
    assert!(swapped.open(1, &one).is_err(), "a certificate that is not the key's");

    let admin = opened.issue_client("admin", &["system:masters".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Tolerant::new(Arc::new(roots), provider).unwrap();
    let certificate = CertificateDer::from_pem_slice(admin.certificate.as_bytes()).unwrap();
    verifier.verify_client_cert(&certificate, &[], UnixTime::since_unix_epoch(std::time::Duration::ZERO)).unwrap();
    let crowd: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    assert!(opened.issue_client("admin", &crowd).is_err());
}

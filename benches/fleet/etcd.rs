//! Three members of Debian's etcd with TLS, in the same network namespaces as the devices.

use std::path::PathBuf;
use std::process::Child;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::fleet::{Fleet, wait};

const PEER_PORT: u16 = 2380;
const CLIENT_PORT: u16 = 2379;

pub struct Cluster {
    members: Vec<(String, Child)>,
    dir: PathBuf,
}

impl Cluster {
    pub fn up(fleet: &Fleet) -> Self {
        let dir = fleet.dir.join("etcd");
        std::fs::create_dir_all(&dir).expect("make the folder");
        let addresses = ["10.77.0.11", "10.77.0.12", "10.77.0.13"];
        write_certificates(&dir, &addresses);
        let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let all: Vec<String> =
            addresses.iter().enumerate().map(|(i, ip)| format!("d{}=https://{ip}:{PEER_PORT}", i + 1)).collect();
        let members = addresses
            .iter()
            .enumerate()
            .map(|(i, ip)| {
                let name = format!("d{}", i + 1);
                let args: Vec<String> = [
                    "--name",
                    &name,
                    "--data-dir",
                    &file(&format!("data-{name}")),
                    "--listen-peer-urls",
                    &format!("https://{ip}:{PEER_PORT}"),
                    "--initial-advertise-peer-urls",
                    &format!("https://{ip}:{PEER_PORT}"),
                    "--listen-client-urls",
                    &format!("https://{ip}:{CLIENT_PORT}"),
                    "--advertise-client-urls",
                    &format!("https://{ip}:{CLIENT_PORT}"),
                    "--initial-cluster",
                    &all.join(","),
                    "--cert-file",
                    &file("cert.pem"),
                    "--key-file",
                    &file("key.pem"),
                    "--trusted-ca-file",
                    &file("ca.pem"),
                    "--client-cert-auth",
                    "--peer-cert-file",
                    &file("cert.pem"),
                    "--peer-key-file",
                    &file("key.pem"),
                    "--peer-trusted-ca-file",
                    &file("ca.pem"),
                    "--peer-client-cert-auth",
                ]
                .iter()
                .map(ToString::to_string)
                .collect();
                (name.clone(), fleet.spawn(&name, "etcd", &args))
            })
            .collect();
        let cluster = Self { members, dir };
        wait("an etcd leader", || cluster.leader(fleet));
        cluster
    }

    /// The address of the member that leads.
    fn leader(&self, fleet: &Fleet) -> Option<String> {
        let file = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let endpoints: Vec<String> = (1..=3).map(|i| format!("https://10.77.0.1{i}:{CLIENT_PORT}")).collect();
        let output = fleet
            .command()
            .args(["exec", "d1", "--", "etcdctl", "--endpoints", &endpoints.join(",")])
            .args(["--cacert", &file("ca.pem"), "--cert", &file("cert.pem"), "--key", &file("key.pem")])
            .args(["endpoint", "status"])
            .env("ETCDCTL_API", "3")
            .output()
            .ok()?;
        // endpoint, id, version, size, is leader, ...
        String::from_utf8_lossy(&output.stdout).lines().find_map(|line| {
            let fields: Vec<&str> = line.split(", ").collect();
            (fields.get(4) == Some(&"true")).then(|| fields[0].trim_start_matches("https://").to_owned())
        })
    }

    pub fn client(&self, fleet: &Fleet, what: &str, clients: &str, prefix: &str) -> String {
        let leader = wait("an etcd leader", || self.leader(fleet));
        let device = format!("d{}", leader.split(':').next().and_then(|ip| ip.chars().last()).unwrap_or('1'));
        fleet.client(&device, &[what, clients, prefix, &self.dir.to_string_lossy(), &leader])
    }

    pub fn processes(&self) -> Vec<(String, u32)> {
        self.members.iter().map(|(name, child)| (name.clone(), child.id())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in &mut self.members {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn write_certificates(dir: &std::path::Path, addresses: &[&str]) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = addresses.iter().map(ToString::to_string).chain(["localhost".into()]).collect();
    let member = CertificateParams::new(names).expect("parameters").signed_by(&key, &issuer).expect("a certificate");
    for (name, text) in [("ca.pem", certificate.pem()), ("cert.pem", member.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(dir.join(name), text).expect("write a certificate");
    }
}

//! Opens the doors of this device: the unix socket, the HTTPS port, the way to other devices' APIs;
//! and closes everything for good when the device left its fleet.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use super::authority::{Ask, Signer};
use super::tasks::Tasks;
use super::{AgentError, file, keeper};
use crate::api::{Api, PeerStreams, Stream, Unreachable};
use crate::config::{Config, group_number};
use crate::consensus::Engine;
use crate::identity::{Enrolment, Identity, tls_server_config};
use crate::network::sandbox::SandboxesConfig;
use crate::runtime::Shims;
use crate::transport::Transport;

/// Pause before a certificate is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// The serving certificate as it was last signed, with the addresses that it is for.
const CERTIFICATE: &str = "serving.json";

/// The way to other devices' APIs: byte streams on the connections of the transport.
pub(crate) struct Peers {
    pub(crate) engine: Engine,
    pub(crate) transport: Transport,
}

impl PeerStreams for Peers {
    fn open<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Box<dyn Stream>, Unreachable>> {
        Box::pin(async move {
            let members = self.engine.members().borrow().clone();
            let peer = members.values().find(|member| member.name == node);
            let peer = peer.ok_or_else(|| Unreachable(format!("{node} is not a member of this fleet")))?;
            let stream = self.transport.open(peer).await.map_err(|error| Unreachable(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Serves the unix socket. Without it nobody could work with this device, so an agent that can not
/// have it does not start.
pub(crate) fn unix(api: &Api, config: &Config, tasks: &Tasks) -> Result<(), AgentError> {
    let path = config.run_dir.join("kith.sock");
    let listener = Api::bind_unix(&path)?;
    if !config.socket_group.is_empty()
        && let Err(error) = open_to(&path, &config.socket_group)
    {
        let group = &config.socket_group;
        tracing::error!(group, %error, "the socket is root's alone: socket_group in agent.toml can not have it");
    }
    let api = api.clone();
    tasks.spawn("serve the socket", async move { api.serve_socket(listener).await });
    Ok(())
}

/// Lets a group use the socket. Its members can do what root can.
fn open_to(path: &Path, group: &str) -> std::io::Result<()> {
    let groups = std::fs::read_to_string("/etc/group")?;
    let gid = group_number(&groups, group)
        .ok_or_else(|| std::io::Error::other(format!("/etc/group has no {group}; make it: groupadd {group}")))?;
    std::os::unix::fs::chown(path, None, Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
}

/// Serves HTTPS as soon as this device has a certificate for its addresses.
pub(crate) async fn tls(
    api: &Api,
    config: &Arc<Config>,
    identity: &Arc<Identity>,
    enrolment: &Enrolment,
    signer: Signer,
    tasks: &Tasks,
) -> Result<(), AgentError> {
    let listener = TcpListener::bind(config.api_listen)
        .await
        .map_err(file(format!("listen on {} for HTTPS (api_listen in agent.toml)", config.api_listen)))?;
    let (api, config, identity) = (api.clone(), config.clone(), identity.clone());
    let authority = enrolment.authority.clone();
    tasks.spawn("serve HTTPS", async move {
        let certificate = certificate(&config, &identity, &signer).await;
        match tls_server_config(&authority, &certificate, &identity) {
            Ok(tls) => api.serve_tls(listener, tls).await,
            Err(error) => tracing::error!(%error, "HTTPS is not served"),
        }
    });
    Ok(())
}

/// A signed certificate and what it is good for.
#[derive(serde::Serialize, serde::Deserialize)]
struct Serving {
    addresses: Vec<IpAddr>,
    certificate: String,
}

/// The certificate of an earlier start when it still fits, else a new one as soon as a voter can
/// be asked.
async fn certificate(config: &Config, identity: &Identity, signer: &Signer) -> String {
    let path = config.data_dir.join("identity").join(CERTIFICATE);
    let mut addresses: Vec<IpAddr> = keeper::addresses(config).iter().map(std::net::SocketAddr::ip).collect();
    addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
    let kept: Option<Serving> = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(kept) = kept
        && kept.addresses == addresses
    {
        return kept.certificate;
    }
    let ask = || Ask::SignServing { public_key: identity.serving_public_key(), addresses: addresses.clone() };
    loop {
        match signer.ask(ask()).await {
            Ok(certificate) => {
                let serving = Serving { addresses, certificate };
                if let Err(error) = keep(&path, &serving) {
                    tracing::warn!(%error, "the serving certificate is not kept; it is asked for again at the next start");
                }
                return serving.certificate;
            }
            Err(why) => tracing::debug!(why, "no certificate for HTTPS yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Old or new, never half: temporary file, fsync, rename.
fn keep(path: &Path, serving: &Serving) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, &serde_json::to_vec(serving)?)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The device left: its containers end, and its keys, log and state are removed. Images and volumes that outlive pods stay.
pub(crate) fn forget_fleet(config: &Config, runtime: Option<Shims>) -> Result<(), AgentError> {
    if let Some(runtime) = runtime {
        drop(runtime);
        crate::runtime::kill_everything(&config.cgroup)?;
        let sandboxes = SandboxesConfig { run_dir: config.run_dir.clone(), range: config.pod_network };
        crate::network::sandbox::remove_everything(&sandboxes)?;
        crate::volumes::remove_all(&config.data_dir.join("pods")).map_err(file("remove the volumes of pods"))?;
    }
    // The keys and the enrolment go last and at once, by a rename: as long as they are there, this
    // device is not free for another fleet, and once they are gone nothing of the old one is left.
    let identity = config.data_dir.join("identity");
    let leaving = config.data_dir.join("identity.leaving");
    for name in ["log", "state.redb", "snapshot", "scratch", "secrets", "pods", "identity.leaving"] {
        if name == "identity.leaving" {
            let _left_by_an_earlier_try = std::fs::remove_dir_all(&leaving);
            std::fs::rename(&identity, &leaving).map_err(file(format!("set {} aside", identity.display())))?;
        }
        let path = config.data_dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file(format!("remove {}", path.display()))(error));
            }
            _ => {}
        }
    }
    tracing::info!("this device left its fleet; kith init or kith join TOKEN starts over");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_group_is_let_in_by_its_name_and_nobody_else() {
        assert!(nix::unistd::geteuid().is_root(), "only root gives a file to another group: run this test as root");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kith.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let before = std::fs::metadata(&path).unwrap().mode();
        let refused = open_to(&path, "no-such-group").unwrap_err().to_string();
        assert!(refused.contains("groupadd no-such-group"), "{refused}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode(), before);
        open_to(&path, "daemon").unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o660, 0));
        assert_eq!(Some(found.gid()), group_number(&std::fs::read_to_string("/etc/group").unwrap(), "daemon"));
    }
}

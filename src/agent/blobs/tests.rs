use sha2::Digest as _;

use super::*;
use crate::consensus::{EngineConfig, MirrorSettings, Presence};
use crate::identity::{Identity, Trust};
use crate::resource::{ImageConfig, Timestamp};
use crate::store::{Batch, Key, Write};
use crate::transport::TransportConfig;

/// A device that is a fleet of its own, with an image of one layer.
struct Device {
    exchange: Arc<Exchange>,
    engine: Engine,
    image: ImageName,
    layer: String,
    _folder: tempfile::TempDir,
}

impl Device {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::create(&folder.path().join("identity")).unwrap());
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = TransportConfig::new(listen, identity.clone(), Trust::default(), Profile::Lan);
        let transport = Transport::bind(config).unwrap();
        let engine = Engine::start(EngineConfig {
            data_dir: folder.path().join("data"),
            disk: Arc::new(crate::storage::RealDisk),
            sizes: crate::storage::Sizes::default(),
            member_id: 1,
            profile: Profile::Lan,
            wire: Arc::new(transport.clone()),
            wall: Arc::new(|| Timestamp(1_800_000_000_000)),
            client: 1,
            mirrors: MirrorSettings::default(),
            presence: Presence::default(),
        });
        let engine = engine.await.unwrap();
        engine.bootstrap(1, identity.member("d1", vec![transport.local_addr().unwrap()], 6443)).await.unwrap();
        let store = ImageStore::open(&folder.path().join("images")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", &b"bytes"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let layer = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&tar)));
        let image: ImageName = "registry.example:5000/secret:1".parse().unwrap();
        store.import(&*tar, &image, &ImageConfig::default(), Timestamp(0)).unwrap();
        let exchange = Arc::new(Exchange::new(engine.clone(), transport, store, "d1".into(), 1 << 30));
        Self { exchange, engine, image, layer, _folder: folder }
    }

    /// Binds a pod of an image to a device, or deletes it.
    async fn pod(&self, device: &str, image: Option<&str>) {
        let key = Key::new("Pod", "default", format!("on-{device}"));
        let write = match image {
            None => Write::Delete { key },
            Some(image) => {
                let object = serde_json::json!({"metadata": {"name": key.name, "namespace": "default", "uid": key.name},
                    "spec": {"nodeName": device, "containers": [{"name": "c", "image": image}]}});
                Write::Put { key, body: object.to_string().into_bytes() }
            }
        };
        self.engine.propose(Batch { checks: Vec::new(), writes: vec![write] }).await.unwrap();
    }

    /// The status of what a device is told that asks for a blob.
    async fn asked(&self, device: &str, digest: &str, query: &str) -> u16 {
        let path = format!("{BLOBS}/{digest}");
        self.exchange.clone().answer(device.to_owned(), path, query.to_owned()).await.status
    }
}

#[tokio::test]
async fn who_has_no_pod_of_an_image_gets_nothing_of_it() {
    let device = Device::start().await;
    let layer = device.layer.clone();
    assert_eq!(device.asked("d2", &layer, "").await, 404, "it has no pod at all");
    device.pod("d2", Some("registry.example:5000/other:1")).await;
    assert_eq!(device.asked("d2", &layer, "").await, 404, "its pod is of another image");
    device.exchange.known.lock().unwrap().clear();
    device.pod("d2", Some(&device.image.to_string())).await;
    assert_eq!(device.asked("d2", &layer, "").await, 200);
    assert_eq!(device.asked("d2", &layer, "from=3").await, 200);
    assert_eq!(device.asked("d2", &layer, "from=1000000").await, 404, "there is no such offset");
    assert_eq!(device.asked("d3", &layer, "").await, 404, "the pod is another device's");
    let unknown = format!("sha256:{}", "0".repeat(64));
    assert_eq!(device.asked("d2", &unknown, "").await, 404);
    for (digest, query) in [("../../identity/device.key", ""), ("sha256:xyz", ""), (layer.as_str(), "from=-1")] {
        assert_eq!(device.asked("d2", digest, query).await, 400, "{digest} {query}");
    }
    device.pod("d2", None).await;
    device.exchange.known.lock().unwrap().clear();
    assert_eq!(device.asked("d2", &layer, "").await, 404, "its pod is gone");
    device.engine.shutdown().await.unwrap();
}

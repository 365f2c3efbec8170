//! Pull and unpack of an image of 100 MB in four layers, from a registry on loopback: `kith image
//! pull` against `skopeo copy` followed by `umoci unpack`, in turn.
//!
//! `KITH_EXE` names another binary than the one just built, such as a static one; `ROUNDS` is 5. Needs
//! root, `docker-registry`, `skopeo` and `umoci`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a bench fails by panicking")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LAYERS: usize = 4;
const FILES: usize = 100;
/// Bytes of one file: 4 x 100 x 256 KiB are 100 MiB.
const FILE: usize = 256 << 10;

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).stdout(Stdio::null()).status();
    let status =
        status.unwrap_or_else(|error| panic!("{program}: {error}; apt-get install docker-registry skopeo umoci"));
    assert!(status.success(), "{program} {args:?}");
}

/// Files that compress to about half, as programs do.
fn fill(folder: &Path, seed: u64) {
    let mut state = seed | 1;
    for number in 0..FILES {
        let path = folder.join(format!("d{}", number % 10)).join(format!("f{number}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = Vec::with_capacity(FILE);
        while bytes.len() < FILE {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
            bytes.extend_from_slice(&[state.to_le_bytes()[0] & 7; 8]);
        }
        fs::write(path, bytes).unwrap();
    }
}

struct Registry(Child);

impl Registry {
    fn start(folder: &Path) -> (Self, String) {
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = folder.join("registry.yml");
        let data = folder.join("registry");
        fs::write(
            &config,
            format!("version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n", data.display()),
        )
        .unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("apt-get install docker-registry");
        while TcpStream::connect(&host).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        (Self(child), host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds: u32 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let exe = std::env::var_os("KITH_EXE").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kith")), PathBuf::from);
    let exe = exe.to_str().unwrap();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (_registry, host) = Registry::start(folder.path());
    let (layout, image) = (path("layout"), format!("{}:1", path("layout")));
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    for (layer, seed) in (0..LAYERS).zip(7..) {
        let content = folder.path().join(format!("content{layer}"));
        fill(&content, seed);
        run("umoci", &["insert", "--image", &image, content.to_str().unwrap(), &format!("/data{layer}")]);
    }
    run(
        "skopeo",
        &["copy", "-q", "--dest-tls-verify=false", &format!("oci:{image}"), &format!("docker://{host}/big:1")],
    );
    let settings = path("agent.toml");
    fs::write(&settings, format!("data_dir = \"{}\"\n[registries.\"{host}\"]\ninsecure = true\n", path("data")))
        .unwrap();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(timed(|| run(exe, &["--config", &settings, "image", "pull", "-q", &format!("{host}/big:1")])));
        fs::remove_dir_all(path("data")).unwrap();
        let (copy, bundle) = (format!("{}:1", path("copy")), path("bundle"));
        theirs.push(timed(|| {
            run(
                "skopeo",
                &["copy", "-q", "--src-tls-verify=false", &format!("docker://{host}/big:1"), &format!("oci:{copy}")],
            );
            run("umoci", &["unpack", "--image", &copy, &bundle]);
        }));
        fs::remove_dir_all(path("copy")).unwrap();
        fs::remove_dir_all(bundle).unwrap();
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("pull + unpack of 100 MiB in {LAYERS} layers, medians of {rounds}");
    println!("| kith image pull | skopeo + umoci | ratio |\n|---|---|---|");
    println!("| {ours:.0} ms | {theirs:.0} ms | {:.2}x |", ours / theirs);
}

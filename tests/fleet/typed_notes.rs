//! What the commands of the pages need to be typed: the state that the page speaks of, keys on a
//! terminal, or another test that runs the same.

use serde_json::json;

use crate::harness::{Fleet, is_ready, name, node, wait_for};
use crate::pulls::Registry;
use crate::stage::How::{After, Elsewhere, GoesOn, Judges, Part, Refused, Terminal};
use crate::stage::{Note, Stage};
use crate::typed_rough::OPERATING;

/// Pages that are typed on a fleet that stays well, in this order.
pub const CALM: [&str; 11] = [
    "README.md",
    "docs/cli.md",
    "docs/configuration.md",
    "docs/images.md",
    "docs/metrics.md",
    "docs/security.md",
    "docs/storage.md",
    "docs/development.md",
    "docs/benchmarks.md",
    "docs/reliability.md",
    "cross/README.md",
];

/// Pages that take a fleet apart.
pub const ROUGH: [&str; 2] = ["docs/operating.md", "docs/networking.md"];

pub fn all() -> impl Iterator<Item = &'static Note> {
    [README, CLI, CONFIGURATION, IMAGES, OTHERS, BUILDING, OPERATING].into_iter().flatten()
}

/// What all calm pages have around them.
pub fn begin(stage: &mut Stage) {
    // The registry of the pages is in the network of d1.
    let registry = Registry::listen(&stage.fleet, "127.0.0.1:5000");
    stage.keep(registry);
    stage.names.set("registry.barn:5000", "127.0.0.1:5000");
    stage.prepare("scripts/hello-image.sh rootfs.tar && kith kubeconfig >kubeconfig");
    other(stage, "app:1");
    stage.prepare("kith image push app:1 registry.barn:5000/app:1 && kith image rm app:1");
}

const SLOW: &str = "it builds for minutes, and would build this very test";
const CI: &str = ".ci/run";

const README: &[Note] = &[
    Note("README.md", "make demo", Elsewhere(SLOW, "tests/fleet/tour.rs", "the_tour_of_the_readme_can_be_typed")),
    Note("README.md", "make test", Elsewhere("it runs this very test", CI, "make test")),
    Note("README.md", "make deb", Elsewhere(SLOW, "tests/service.rs", "scripts/deb.sh")),
    Note("README.md", "make deb-arm64 deb-armhf", Elsewhere(SLOW, "tests/service.rs", "scripts/deb.sh")),
    Note("README.md", "make install", Elsewhere("it changes the machine", "tests/install.rs", "install.sh")),
    Note("README.md", "kith init --name gate", After(|stage| stage.alone("gate", ""))),
];

/// An image that has nothing in common with another one.
fn other(stage: &mut Stage, image: &str) {
    stage.prepare("mkdir -p other && head -c 3000000 /dev/urandom >other/data && tar c -C other -f other.tar .");
    stage.prepare(&format!("kith image import other.tar {image} --cmd /data"));
}

/// Waits for the three copies of the Deployment of the examples to be there alone, oldest first.
fn copies(stage: &Stage, host_network: bool) -> Vec<serde_json::Value> {
    let mut pods = wait_for("three copies and no more", || {
        let mut pods = stage.fleet.pods("d1");
        pods.retain(|pod| name(pod).starts_with("hello-"));
        let settled = |pod: &serde_json::Value| is_ready(pod) && (pod["spec"]["hostNetwork"] == true) == host_network;
        (pods.len() == 3 && pods.iter().all(settled)).then_some(pods)
    });
    pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].to_string());
    pods
}

/// A pod of that Deployment, on d1, is meant where the page names one. Of two there, the older one has
/// the port.
fn hello(stage: &mut Stage) {
    stage.prepare("kith apply -f configs/examples/hello.yaml");
    let pods = copies(stage, true);
    for (device, shown) in [("d1", "hello-w6h6zlfl5z-79zt9"), ("d2", "hello-w6h6zlfl5z-glp7k")] {
        let pod = pods.iter().find(|pod| node(pod) == device).unwrap_or(&pods[0]);
        stage.names.set(shown, name(pod));
    }
}

/// The example with a network of its own: the ports of the device are free for others.
fn apart(stage: &mut Stage) {
    let text = std::fs::read_to_string("configs/examples/hello.yaml").unwrap();
    stage.write("apart.yaml", &text.replace("hostNetwork: true", "hostNetwork: false"));
    stage.prepare("kith apply -f apart.yaml");
    let pods = copies(stage, false);
    stage.names.set("hello-w6h6zlfl5z-79zt9", name(&pods[0]));
}

/// A pod that waits for keys.
fn shell(stage: &mut Stage) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "hello:1", "command": ["sh"], "stdin": true, "tty": true}]}});
    stage.write("shell.json", &pod.to_string());
    stage.prepare("kith delete pod shell --ignore-not-found && kith apply -f shell.json");
    wait_for("the shell to run", || stage.fleet.ready_pods("d1").iter().any(|pod| name(pod) == "shell").then_some(()));
}

/// A device that may enter, with a token for it.
fn barn(stage: &mut Stage, folder: &'static str) {
    let token = stage.prepare("kith token create -q --uses 5");
    stage.names.set("kith1.ASAzYzhmMDBkZTg5ZmQ5YzY0...", token.trim());
    stage.alone(folder, "advertise = [\"10.77.0.11:7444\"]\npeer_listen = \"0.0.0.0:7444\"\n");
}

fn bind_token(stage: &mut Stage) {
    let made: serde_json::Value =
        serde_json::from_str(&stage.prepare("kith token create -q >/dev/null; kith token list -o json")).unwrap();
    let id = made.as_array().or_else(|| made["items"].as_array()).unwrap()[0]["id"].as_str().unwrap().to_owned();
    stage.names.set("7b4a8121f8", &id);
}

fn nowhere(stage: &mut Stage) {
    stage.alone("nowhere", "");
    stage.names.set("/run/kith/kith.sock", stage.path("nowhere/run/kith.sock").to_str().unwrap());
}

const UPGRADES: &str = "tests/fleet/upgrade.rs";
const OPERATED: &str = "docs/operating.md shows it with what comes of it, and there it is typed";

const CLI: &[Note] = &[
    Note("docs/cli.md", "kith status", After(nowhere)),
    Note("docs/cli.md", "echo $?", After(|stage| stage.device = "d1")),
    Note("docs/cli.md", "kith upgrade ./kith", Elsewhere(OPERATED, "docs/operating.md", "$ kith upgrade ./kith\n")),
    Note(
        "docs/cli.md",
        "kith upgrade --fleet ./kith --canary 2 --percent 50 --steady 1m --within 20m",
        Elsewhere(
            "it takes minutes",
            UPGRADES,
            "\"--fleet\", \"--steady\", \"2s\", \"--within\", \"5m\", \"--percent\"",
        ),
    ),
    Note("docs/cli.md", "kith upgrade --pause", Refused("no rollout")),
    Note("docs/cli.md", "kith upgrade --resume", Refused("no rollout")),
    Note("docs/cli.md", "kith upgrade --abort", Refused("no rollout")),
    Note("docs/cli.md", "kith init --name gate --uses 2", After(|stage| stage.alone("gate-2", ""))),
    Note("docs/cli.md", "kith join kith1.ASAzYzhmMDBkZTg5ZmQ5YzY0... --name barn", After(|stage| barn(stage, "barn"))),
    Note(
        "docs/cli.md",
        "kith join kith1.ASAzYzhmMDBkZTg5ZmQ5YzY0... --name barn --replace",
        After(|stage| barn(stage, "barn-2")),
    ),
    Note(
        "docs/cli.md",
        "kith leave",
        After(|stage| {
            stage.fleet.dev(&["add"]);
            stage.device = "d4";
        }),
    ),
    Note("docs/cli.md", "kith leave --device d3", After(|stage| stage.names.set("--device d3", "--device barn"))),
    Note("docs/cli.md", "kith restore fleet.backup --name gate", After(|stage| stage.alone("gate-3", ""))),
    Note("docs/cli.md", "kith recover --yes", Refused("quorum")),
    Note("docs/cli.md", "kith token revoke 7b4a8121f8", After(bind_token)),
    Note("docs/cli.md", "kith doctor", Judges(" checks: ")),
    Note("docs/cli.md", "kith doctor disk cgroup-memory", Judges(" checks: ")),
    Note("docs/cli.md", "kith doctor --json", Judges("\"id\": \"settings\"")),
    Note(
        "docs/cli.md",
        "kith plan -f big.yaml",
        After(|stage| {
            hello(stage);
            let hello = std::fs::read_to_string("configs/examples/hello.yaml").unwrap();
            stage.write(
                "big.yaml",
                &hello
                    .replace("hello\n", "big\n")
                    .replace("memory: 8Mi", "memory: 800Gi")
                    .replace("memory: 32Mi", "memory: 800Gi"),
            );
        }),
    ),
    Note("docs/cli.md", "kith get pods -l app=hello --field-selector spec.nodeName=d2", After(hello)),
    Note("docs/cli.md", "kith diff -f configs/examples/hello.yaml", After(hello)),
    Note("docs/cli.md", "kith rollout restart deployment/hello", After(hello)),
    Note("docs/cli.md", "kith rollout status deployment/hello", Part),
    Note("docs/cli.md", "kith drain d2", After(hello)),
    Note("docs/cli.md", "kith logs pod/hello-w6h6zlfl5z-79zt9 --timestamps", After(hello)),
    // A copy that found its port taken says so, and takes the next one.
    Note("docs/cli.md", "kith logs pod/hello-w6h6zlfl5z-79zt9 --timestamps", Part),
    Note("docs/cli.md", "kith run shell --image hello:1 -i -t --rm --command -- sh", Terminal("exit\n")),
    Note("docs/cli.md", "kith exec -i -t deployment/hello -- sh", Terminal("exit\n")),
    Note(
        "docs/cli.md",
        "tar c files | kith exec -i hello-w6h6zlfl5z-79zt9 -- tar x -C /tmp",
        After(|stage| stage.write("files/a", "a")),
    ),
    Note("docs/cli.md", "kith attach hello-w6h6zlfl5z-79zt9", GoesOn(2, "")),
    Note("docs/cli.md", "kith attach -i -t shell", After(shell)),
    Note("docs/cli.md", "kith attach -i -t shell", Terminal("exit\n")),
    Note(
        "docs/cli.md",
        "kith debug hello-w6h6zlfl5z-79zt9 --image hello:1 --target web -i -t -- sh",
        Terminal("exit\n"),
    ),
    Note("docs/cli.md", "kith debug node/d1 --image hello:1 -i -t -- sh", Terminal("exit\n")),
    Note("docs/cli.md", "kith port-forward deployment/hello 8080 9090:90", After(apart)),
    Note("docs/cli.md", "kith port-forward deployment/hello 8080 9090:90", GoesOn(2, "127.0.0.1:9090")),
    Note("docs/cli.md", "kith dev status", Part),
    Note("docs/cli.md", "kith cp settings hello-w6h6zlfl5z-79zt9:/tmp/", After(|stage| stage.write("settings/a", "a"))),
    Note(
        "docs/cli.md",
        "kith image load hello.tar --name hello:2",
        After(|stage| drop(stage.prepare("kith image save hello:1 -o hello.tar"))),
    ),
];

fn layered(stage: &mut Stage) {
    stage.alone("layers", "# This device.\n\ndevice_profiles = [\"tiny\"]\n");
    stage.names.set("/etc/kith/agent.toml", stage.path("layers/agent.toml").to_str().unwrap());
    stage.variables.push(("KITH_PIDS_LIMIT", "300".into()));
}

fn mistaken(stage: &mut Stage) {
    stage.alone("mistakes", "# This device.\nnmae = \"gate\"\n\n\n\n\nlog_max_bytes = \"10M\"\n");
    stage.names.set("/etc/kith/agent.toml", stage.path("mistakes/agent.toml").to_str().unwrap());
    stage.variables.push(("KITH_PROFILE", "lam".into()));
}

const CONFIGURATION: &[Note] = &[
    Note("docs/configuration.md", "kith status --config", After(layered)),
    Note("docs/configuration.md", "kith status --config", Part),
    Note("docs/configuration.md", "kith agent --check", After(mistaken)),
];

const NO_DOCKER: &str = "it needs Docker, a registry on the internet, and another machine";

const IMAGES: &[Note] = &[
    Note(
        "docs/images.md",
        "kith get pods x",
        After(|stage| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {
            "nodeName": "d1", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "127.0.0.1:5000/app:9"}]}});
            stage.write("x.json", &pod.to_string());
            stage.prepare("kith apply -f x.json");
        }),
    ),
    Note(
        "docs/images.md",
        "kith image pull registry.barn:5000/app:1",
        After(|stage| {
            stage.prepare("kith image rm 127.0.0.1:5000/app:1");
        }),
    ),
    Note(
        "docs/images.md",
        "kith image push hello:1 registry.barn:5000/hello:1",
        After(|stage| {
            // One that the registry does not have yet.
            stage.names.set("registry.barn:5000/hello:1", "127.0.0.1:5000/barn/hello:1");
        }),
    ),
    Note(
        "docs/images.md",
        "kith image ls",
        After(|stage| {
            stage.prepare("kith image ls -o name | grep -v '^hello:1$' | xargs -rn1 kith image rm");
        }),
    ),
    Note(
        "docs/images.md",
        "docker save nginx:1.27 | ssh device kith image load -",
        Elsewhere(NO_DOCKER, "tests/registry/real.rs", "docker-archive"),
    ),
    Note(
        "docs/images.md",
        "skopeo copy docker://nginx:1.27 oci-archive:nginx.tar && scp nginx.tar device:",
        Elsewhere(NO_DOCKER, "tests/registry/real.rs", "oci-archive"),
    ),
    Note(
        "docs/images.md",
        "kith image prune --all --dry-run",
        After(|stage| {
            other(stage, "old:1");
        }),
    ),
];

const OTHERS: &[Note] = &[Note(
    "docs/metrics.md",
    "curl -s --unix-socket /run/kith/kith.sock http://kith/metrics",
    After(|stage| stage.names.set("/run/kith/kith.sock", stage.fleet.file("d1", "run/kith.sock").to_str().unwrap())),
)];

const BY_HAND: &str = "it takes a quarter of an hour or more, and is started by hand";

const INSIDE: &str = "it runs tests, and this is one";

const BUILDING: &[Note] = &[
    Note("docs/development.md", "make build", Elsewhere(SLOW, "Makefile", "deb: build")),
    Note(
        "docs/development.md",
        "make demo",
        Elsewhere(SLOW, "tests/fleet/tour.rs", "the_tour_of_the_readme_can_be_typed"),
    ),
    Note("docs/development.md", "make test", Elsewhere(INSIDE, CI, "make test")),
    Note(
        "docs/development.md",
        "make simulation",
        Elsewhere(INSIDE, "Makefile", "@$(MAKE) --no-print-directory simulation"),
    ),
    Note("docs/development.md", "make check", Elsewhere(SLOW, CI, "make check")),
    Note("docs/development.md", "make fuzz", Elsewhere(SLOW, CI, "make fuzz")),
    Note("docs/development.md", "make bench", Elsewhere(BY_HAND, "Makefile", "--bench fleet")),
    Note("docs/development.md", "make cross", Elsewhere(SLOW, CI, "cross/cross.sh build")),
    Note("docs/development.md", "make cross-test", Elsewhere(SLOW, CI, "make cross-test")),
    Note("docs/development.md", "make vm vm-old vm-arm", Elsewhere(BY_HAND, "Makefile", "tests/vm/run.sh")),
    Note("docs/development.md", "make debs", Elsewhere(SLOW, "tests/service.rs", "scripts/deb.sh")),
    Note(
        "docs/development.md",
        "cargo nextest run --no-capture a_deployment_runs_and_scales",
        Elsewhere(INSIDE, "tests/scenarios.rs", "fn a_deployment_runs_and_scales"),
    ),
    Note(
        "docs/development.md",
        "cargo nextest run --test fleet pods_of_a_lost_device_move",
        Elsewhere(INSIDE, "tests/fleet/faults.rs", "fn pods_of_a_lost_device_move"),
    ),
    Note(
        "docs/development.md",
        "kith dev --fleet mine up --devices 4 --set lost_after_seconds=3",
        After(|stage| {
            stage.keep(Fleet::named("t-mine"));
        }),
    ),
    Note("docs/development.md", "cargo build", Elsewhere(SLOW, CI, "make test")),
    Note(
        "docs/development.md",
        "PAGE=docs/images.md cargo nextest run --test fleet --no-capture typed::what",
        Elsewhere(INSIDE, "tests/fleet/typed.rs", "fn what_the_pages_show_comes_of_what_they_type"),
    ),
    Note(
        "docs/development.md",
        "KITH_SEED=7 cargo nextest run acknowledged_writes_survive",
        Elsewhere(INSIDE, "src/consensus/tests/storm.rs", "fn acknowledged_writes_survive"),
    ),
    Note("docs/development.md", "KITH_SEED=7 make simulation", Elsewhere(INSIDE, "Makefile", "$(if $(KITH_SEED),")),
    Note(
        "docs/development.md",
        "FUZZ_SECONDS=600 scripts/fuzz.sh request layer",
        Elsewhere(SLOW, "Makefile", "scripts/fuzz.sh"),
    ),
    Note(
        "docs/development.md",
        "KITH_WRITE_DOCS=1 cargo nextest run compatibility_page",
        Elsewhere(INSIDE, "src/resource/fields/tests.rs", "KITH_WRITE_DOCS"),
    ),
    Note("docs/benchmarks.md", "make bench", Elsewhere(BY_HAND, "Makefile", "--bench fleet")),
    Note("docs/benchmarks.md", "make bench-profiles", Elsewhere(BY_HAND, "Makefile", "scripts/profiles.sh")),
    Note("docs/benchmarks.md", "scripts/profiles.sh s-thin", Elsewhere(BY_HAND, "scripts/profiles.sh", "s-thin")),
    Note(
        "docs/benchmarks.md",
        "scripts/measure.py usual=target/release/kith 'tiny=target/release/kith,device_profiles=[\"tiny\"]'",
        Elsewhere(BY_HAND, "scripts/measure.py", "SETTING=VALUE"),
    ),
    Note("docs/benchmarks.md", "make bench-start", Elsewhere(BY_HAND, "Makefile", "--bench start")),
    Note("docs/benchmarks.md", "cargo bench --bench scale", Elsewhere(BY_HAND, "Makefile", "--bench scale")),
    Note("docs/benchmarks.md", "cargo bench --bench scale -- 400 100", Elsewhere(BY_HAND, "Makefile", "--bench scale")),
    Note("docs/benchmarks.md", "make bench-traffic", Elsewhere(BY_HAND, "Makefile", "-- traffic")),
    Note(
        "docs/reliability.md",
        "make simulation",
        Elsewhere(INSIDE, "Makefile", "@$(MAKE) --no-print-directory simulation"),
    ),
    Note("docs/reliability.md", "KITH_SEED=7 make simulation", Elsewhere(INSIDE, "Makefile", "$(if $(KITH_SEED),")),
    Note(
        "docs/reliability.md",
        "KITH_HOURS=1 KITH_CUTS=0 KITH_FIRST_SEED=5000 make simulation",
        Elsewhere(INSIDE, "tests/simulation/main.rs", "KITH_FIRST_SEED"),
    ),
    Note("docs/reliability.md", "SOAK_HOURS=8 make soak", Elsewhere(BY_HAND, "Makefile", "the_night")),
    Note(
        "docs/reliability.md",
        "cargo nextest run --test fleet torture:: links:: disks::",
        Elsewhere(INSIDE, "tests/fleet/main.rs", "mod torture;"),
    ),
    Note("docs/reliability.md", "make vm", Elsewhere(BY_HAND, "Makefile", "tests/vm/run.sh")),
    Note("docs/reliability.md", "make vm-old", Elsewhere(BY_HAND, "Makefile", "tests/vm/run.sh")),
    Note("docs/reliability.md", "make vm-arm", Elsewhere(BY_HAND, "Makefile", "tests/vm/run.sh")),
    Note("cross/README.md", "cross/cross.sh build aarch64", Elsewhere(SLOW, CI, "cross/cross.sh build")),
    Note("cross/README.md", "cross/cross.sh build armv7", Elsewhere(SLOW, CI, "cross/cross.sh build")),
    Note("cross/README.md", "cross/cross.sh build x86_64", Elsewhere(SLOW, CI, "cross/cross.sh build")),
    Note("cross/README.md", "cross/cross.sh run armv7 version", Elsewhere(SLOW, "cross/cross.sh", "run)")),
    Note("cross/README.md", "cross/cross.sh test aarch64", Elsewhere(SLOW, CI, "make cross-test")),
    Note(
        "cross/README.md",
        "rustup target add aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf x86_64-unknown-linux-musl",
        Elsewhere("it needs the internet", "cross/cross.sh", "rustup target add"),
    ),
    Note(
        "cross/README.md",
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS=\"-C relocation-model=static -C force-unwind-tables=no\" \\\n    cargo zigbuild --locked --release --bin kith --target aarch64-unknown-linux-musl",
        Elsewhere(SLOW, "cross/cross.sh", "zigbuild"),
    ),
];

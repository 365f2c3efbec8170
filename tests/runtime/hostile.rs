//! Programs and images that are broken or mean harm.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use kith::reconciler::container::StopSignal;
use kith::runtime::Runtime;

use crate::bench::{self, Bench};

#[tokio::test]
async fn what_can_not_start_says_why_and_leaves_an_exit() {
    let bench = Bench::new();
    let shims = bench.open();
    fs::write(bench.path().join("layer/bin/text"), "no program").unwrap();
    fs::set_permissions(bench.path().join("layer/bin/text"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(bench.path().join("layer/bin/alien"), b"\x7fELF\x02\x01\x01\0").unwrap();
    fs::set_permissions(bench.path().join("layer/bin/alien"), fs::Permissions::from_mode(0o755)).unwrap();
    for (number, (program, reason)) in [
        ("/bin/absent", "no such program"),
        ("absent", "no such program"),
        ("/bin/text", "not executable"),
        ("/bin/alien", "processor"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = Bench::spec("broken", &[program]);
        spec.reference.attempt = u32::try_from(number).unwrap();
        let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(program), "{error}");
        let exit = bench.exit(&shims, &spec).await;
        assert_eq!((exit.code, exit.started), (128, None));
        assert!(error.contains(&exit.message), "{exit:?}");
    }
    let mut spec = Bench::spec("broken", &["/bin/true"]);
    spec.reference.attempt = 77;
    spec.capabilities = vec!["CAP_FLY".into()];
    let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
    assert!(error.contains("CAP_FLY"), "{error}");
    let error = shims.start(spec.clone(), bench.layers()).await.unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    let mut spec = Bench::spec("broken", &["/bin/true"]);
    spec.reference.container = "../../evil".into();
    assert!(shims.start(spec, bench.layers()).await.is_err());
    bench.clear(&shims).await;
}

#[tokio::test]
async fn an_image_whose_folders_are_links_is_refused() {
    let bench = Bench::new();
    let shims = bench.open();
    for (number, name) in ["dev", "proc", "sys", "etc"].into_iter().enumerate() {
        let layer = bench.path().join(format!("layer-{name}"));
        bench::make_root(&layer);
        fs::remove_dir_all(layer.join(name)).unwrap();
        symlink("/tmp", layer.join(name)).unwrap();
        let mut spec = Bench::spec("links", &["/bin/true"]);
        spec.reference.attempt = u32::try_from(number).unwrap();
        let error = shims.start(spec, vec![layer]).await.unwrap_err().to_string();
        assert!(error.contains("symbolic link") && error.contains(&format!("/{name}")), "{error}");
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn links_in_an_image_do_not_lead_writes_out_of_it() {
    let bench = Bench::new();
    let shims = bench.open();
    let victim = bench.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let layer = bench.path().join("layer");
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(&victim, layer.join("etc").join(name)).unwrap();
    }
    fs::remove_file(layer.join("etc/passwd")).unwrap();
    symlink("/etc/passwd", layer.join("etc/passwd")).unwrap();
    symlink(bench.path(), layer.join("out")).unwrap();
    let mut spec = Bench::spec("leads", &["/bin/true"]);
    spec.working_dir = "/out/made".into();
    // The link leads nowhere inside of the root: refused, or made inside; never outside.
    let _ = shims.start(spec.clone(), bench.layers()).await;
    bench.exit(&shims, &spec).await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(!bench.path().join("made").exists());
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_on_disk_and_in_memory() {
    let bench = Bench::new();
    let shims = bench.open();
    let spec = Bench::spec("flood", &["/bin/cat", "/dev/zero"]);
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    let log = kith::reconciler::container::log_path(&bench.path().join("log"), &spec.reference);
    let oldest = log.with_extension("log.2");
    bench::eventually("the log has rotated twice", || oldest.exists()).await;
    let sizes: u64 =
        fs::read_dir(log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(sizes <= 3 << 20, "{sizes}");
    let memory = bench::heap_kib(bench.shim_pid(&spec));
    assert!(memory < 1024, "{memory} KiB");
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    assert_eq!(bench.exit(&shims, &spec).await.signal, Some(9));
    bench.clear(&shims).await;
}

#[tokio::test]
async fn a_container_that_runs_has_a_log() {
    let bench = Bench::new();
    let shims = bench.open();
    for round in 0..8 {
        let spec = Bench::spec(&format!("silent-{round}"), &["/bin/sleep", "1000"]);
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        // Whoever sees that it runs asks for its log at once.
        let log = kith::reconciler::container::log_path(&bench.path().join("log"), &spec.reference);
        assert!(log.exists(), "round {round}");
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn output_right_before_the_end_is_not_lost() {
    let bench = Bench::new();
    let shims = bench.open();
    for attempt in 0..20 {
        let mut spec = Bench::spec("last", &["/bin/sh", "-c", "echo first; echo last >&2; echo -n unfinished"]);
        spec.reference.attempt = attempt;
        shims.start(spec.clone(), bench.layers()).await.unwrap();
        bench.exit(&shims, &spec).await;
        let log = bench.log(&spec);
        for line in ["stdout F first\n", "stderr F last\n", "stdout F unfinished\n"] {
            assert!(log.contains(line), "{line:?} in {log}");
        }
    }
    bench.clear(&shims).await;
}

#[tokio::test]
async fn the_images_signal_asks_and_killing_takes_every_process() {
    let bench = Bench::new();
    let shims = bench.open();
    let mut spec =
        Bench::spec("asked", &["/bin/sh", "-c", "trap 'exit 3' USR1; echo ready; while true; do sleep 0.05; done"]);
    spec.stop_signal = "SIGUSR1".into();
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "ready").await;
    shims.stop(&spec.reference, StopSignal::Ask).await.unwrap();
    assert_eq!(bench.exit(&shims, &spec).await.code, 3);
    let mut spec =
        Bench::spec("family", &["/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000 & echo ready; sleep 1000"]);
    spec.stop_signal = "NONSENSE".into();
    shims.start(spec.clone(), bench.layers()).await.unwrap();
    bench.log_has(&spec, "ready").await;
    assert!(shims.stop(&spec.reference, StopSignal::Ask).await.unwrap_err().to_string().contains("NONSENSE"));
    shims.stop(&spec.reference, StopSignal::Kill).await.unwrap();
    assert_eq!(bench.exit(&shims, &spec).await.code, 137);
    bench.clear(&shims).await;
    assert!(shims.stop(&spec.reference, StopSignal::Kill).await.is_err());
}

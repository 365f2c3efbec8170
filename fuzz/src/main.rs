//! One fuzzer for all targets: `KITH_FUZZ_TARGET` names the one to run. `scripts/fuzz.sh` builds it
//! and runs them.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("KITH_FUZZ_TARGET").unwrap_or_default();
    match kith::fuzzing::find(&name) {
        Some(target) => target.run,
        None => {
            let names: Vec<_> = kith::fuzzing::TARGETS.iter().map(|target| target.name).collect();
            eprintln!("KITH_FUZZ_TARGET is {name:?}, but must be one of: {}", names.join(" "));
            std::process::exit(2);
        }
    }
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));

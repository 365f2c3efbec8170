//! Power cuts at every operation of the disk.

use super::super::torture::{Cuts, cut_everywhere};

fn run(seeds: std::ops::Range<u64>, steps: u64, stride: u64, tries: u64) -> Cuts {
    let mut all = Cuts::default();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cuts =
            runtime.block_on(cut_everywhere(seed, steps, stride, tries)).unwrap_or_else(|error| panic!("{error}"));
        all.cuts += cuts.cuts;
        all.operations += cuts.operations;
    }
    println!("{} power cuts at {} operations", all.cuts, all.operations);
    all
}

#[test]
fn the_first_start_is_atomic_at_every_operation() {
    let cuts = run(0..1, 0, 1, 4);
    assert!(cuts.operations > 20, "{cuts:?}");
}

#[test]
fn a_life_is_kept_at_a_cut_at_every_operation() {
    let cuts = run(10..11, 24, 1, 1);
    assert!(cuts.cuts > 200, "{cuts:?}");
}

#[test]
fn long_lives_are_kept_at_cuts_here_and_there() {
    let cuts = run(20..22, 80, 31, 1);
    assert!(cuts.cuts > 20, "{cuts:?}");
}

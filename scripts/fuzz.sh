#!/usr/bin/env bash
# Fuzzes every target for FUZZ_SECONDS (60), two at once; or those that are named. A crash is kept in
# target/fuzz/crashes: fix it, and keep the input in fuzz/regressions/TARGET. --build only builds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
# 0 draws one; with another the same inputs come again, as far as the time reaches.
seed=${FUZZ_SEED:-0}
triple=$(rustc -vV | sed -n 's/^host: //p')
# Coverage for libFuzzer, without a sanitizer: what is fuzzed is safe Rust. These flags are for the
# target only, hence --target.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="$flags" CARGO_TARGET_DIR=target/fuzz cargo build --manifest-path fuzz/Cargo.toml --release --locked --target "$triple"
[ "${1:-}" != --build ] || exit 0
fuzzer=$PWD/target/fuzz/$triple/release/kith-fuzz
targets=("$@")
if [ $# -eq 0 ]; then mapfile -t targets < <(ls fuzz/corpus); fi

run() {
    target=$1
    work=target/fuzz/work/$target
    mkdir -p "$work" target/fuzz/crashes fuzz/regressions/"$target"
    # -close_fd_mask=3: what a decoder prints is not the fuzzer's report.
    if KITH_FUZZ_TARGET=$target "$fuzzer" "$work" fuzz/corpus/"$target" fuzz/regressions/"$target" \
        -seed="$seed" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix=target/fuzz/crashes/"$target"- >target/fuzz/"$target".log 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' target/fuzz/"$target".log) inputs, no crash"
    else
        tail -n 40 target/fuzz/"$target".log
        echo "$target: CRASH; the input is in target/fuzz/crashes"
        return 1
    fi
}
export -f run
export seconds seed fuzzer
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'run {}'

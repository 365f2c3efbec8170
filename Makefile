# Two commands do everything on a fresh Debian 12 machine with Rust:
#   make demo   a three-device fleet on this machine, with a real workload on it
#   make test   every test
# The rest is below. Targets install the Debian packages they need when these are missing.

SHELL := /bin/bash
KITH := target/release/kith
# Only the binary itself is linked statically; build scripts and procedural macros are not.
STATIC := -C target-feature=+crt-static -C relocation-model=static

.PHONY: build demo test check bench tools-build tools-test tools-bench install clean

build: tools-build
	cargo rustc --release --locked --bin kith -- $(STATIC)

demo: build
	@scripts/install.sh busybox-static curl
	@KITH=$(KITH) scripts/demo.sh

test: tools-test
	cargo nextest run --locked

check: tools-build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

bench: build tools-bench
	KITH=$(CURDIR)/$(KITH) KITH_EXE=$(CURDIR)/$(KITH) cargo bench --locked --bench start --bench fleet

tools-build:
	@scripts/install.sh gcc:build-essential

tools-test: tools-build
	@scripts/install.sh busybox-static curl skopeo
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	@scripts/kubectl.sh

tools-bench: tools-build
	@scripts/install.sh busybox-static curl crun etcd:etcd-server etcdctl:etcd-client
	@true

install: build
	install -D -m 0755 $(KITH) $(DESTDIR)/usr/local/bin/kith

clean:
	cargo clean

# Two commands do everything on a fresh Debian 12 machine with Rust:
#   make demo   a three-device fleet on this machine, with a real workload on it
#   make test   every test
# The rest is below. Targets install the Debian packages they need when these are missing.

SHELL := /bin/bash
KITH := target/release/kith
# A target of its own, though it is this machine's: build scripts and procedural macros are then not
# made like the program, which is static, at a fixed address, and without tables to unwind by.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
STATIC := $(shell scripts/flags.sh)
# What benches measure: they leave a program of their own where $(KITH) is.
MEASURED := $(CURDIR)/target/$(HOST)/release/kith
# Chance inside of tokio follows from the seed only with this setting.
SIMULATION := RUSTFLAGS="--cfg tokio_unstable" cargo nextest run --locked --cargo-profile simulation \
	--features seeded-bugs --test simulation --no-capture

DEB_HOST := $(shell dpkg --print-architecture 2>/dev/null)

.PHONY: deb deb-arm64 deb-armhf debs build demo test simulation simulation-build soak check fuzz bench bench-start bench-traffic bench-profiles \
	cross cross-test vm vm-old vm-arm tools-build tools-test tools-bench install clean

build: tools-build
	RUSTFLAGS="$(STATIC)" cargo build --release --locked --bin kith --target $(HOST)
	@install -D target/$(HOST)/release/kith $(KITH)
	@[ $$(stat -c %s $(KITH)) -le 15000000 ] || echo "warning: $(KITH) is larger than 15 MB: docs/benchmarks.md#how-it-is-built" >&2

demo: build
	@scripts/install.sh busybox-static curl
	@KITH=$(KITH) scripts/demo.sh

# The release before this one is built between: what other crates were compiled to serves both.
test: tools-test
	cargo nextest run --locked --no-run
	@scripts/previous.sh >/dev/null
	cargo nextest run --locked
	@$(MAKE) --no-print-directory simulation

# Fleets on simulated time; KITH_SEED=7 make simulation replays one run.
simulation: tools-test
	$(SIMULATION) $(if $(KITH_SEED),fleets_lose_nothing_and_heal)

simulation-build: tools-test
	$(SIMULATION) --no-run

# The same until stopped, or for SOAK_HOURS; the totals go into docs/reliability.md.
soak: tools-test
	RUSTFLAGS="--cfg tokio_unstable" cargo test --locked --profile simulation --features seeded-bugs \
		--test simulation -- --ignored --nocapture the_night

check: tools-build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --features seeded-bugs --lib --test simulation -- -D warnings

bench: build tools-bench
	KITH=$(MEASURED) KITH_EXE=$(MEASURED) cargo bench --locked --bench start --bench sandbox --bench pull --bench fleet --bench scale

# Every decoder of bytes from outside: FUZZ_SECONDS=60 for each, two at once.
fuzz: tools-build
	@scripts/install.sh g++:build-essential
	scripts/fuzz.sh

# Containers against crun and runc.
bench-start: build tools-bench
	KITH_EXE=$(MEASURED) cargo bench --locked --bench start

# Bytes over each link and to each disk of an idle fleet, in every profile: a quarter of an hour.
bench-traffic: build
	@scripts/install.sh mkfs.ext4:e2fsprogs nft:nftables
	KITH=$(MEASURED) cargo bench --locked --bench fleet -- traffic

# Other ways to build what is released: size, start, memory and processor time of each.
bench-profiles: tools-build
	@scripts/install.sh python3
	scripts/profiles.sh

tools-build:
	@scripts/install.sh gcc:build-essential

tools-test: tools-build
	@scripts/install.sh busybox-static curl skopeo umoci docker-registry python3 nft:nftables mkfs.ext4:e2fsprogs jq debootstrap minisign systemd-analyze:systemd script:bsdutils zsh fish
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	@scripts/kubectl.sh
	@scripts/promtool.sh >/dev/null
	@scripts/debian-root.sh >/dev/null

tools-bench: tools-build
	@scripts/install.sh busybox-static curl crun runc docker-registry skopeo umoci etcd:etcd-server etcdctl:etcd-client
	@true

# target/deb/kith_VERSION_ARCHITECTURE.deb: unit, settings, completions, manual pages, licences.
deb: build
	@scripts/install.sh jq dpkg-deb:dpkg
	@scripts/deb.sh $(KITH) $(DEB_HOST)

# The same for boards, and all three.
deb-arm64 deb-armhf: build
	@scripts/install.sh jq dpkg-deb:dpkg
	@device=$(if $(filter deb-arm64,$@),aarch64,armv7) && binary=$$(cross/cross.sh build $$device) && \
		HOST_KITH=$(KITH) scripts/deb.sh $$binary $(@:deb-%=%)

debs: deb deb-arm64 deb-armhf

# Static files for the three kinds of devices, as they are released: cross/README.md.
cross:
	@for device in x86_64 aarch64 armv7; do cross/cross.sh build $$device || exit 1; done

# Builds for boards quickly, and tries them emulated, program by program.
cross-test:
	@for device in aarch64 armv7; do cross/cross.sh test $$device || exit 1; done

# Whole machines, emulated: limits in version 2 of cgroups under systemd; the oldest system that is promised,
# in both versions; and a fleet on aarch64.
vm: build
	@tests/vm/run.sh x86_64 $(KITH)

vm-old: build
	@tests/vm/run.sh old $(KITH)
	@tests/vm/run.sh old-1 $(KITH)

vm-arm:
	@tests/vm/run.sh aarch64 $$(cross/cross.sh build aarch64)

# For systems without Debian's packages: the program, its unit, settings, completions and pages.
install: build
	@sh install.sh $(KITH)

clean:
	cargo clean

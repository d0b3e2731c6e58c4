# BootAgent: one target for each task; `make help` lists them. They need cargo and make, and name what else is missing.

CARGO ?= cargo
PREFIX ?= /usr/local
BIN ?= target/release/bootagent
SHARE = $(DESTDIR)$(PREFIX)/share
BASH_COMPLETION = bash-completion/completions/bootagent
ZSH_COMPLETION = zsh/site-functions/_bootagent
FISH_COMPLETION = fish/vendor_completions.d/bootagent.fish
FUZZ_SECONDS ?= 60
DAEMONS ?= 500
MINUTES ?= 10
HOURS ?= 1
TARGETS = x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf arm-unknown-linux-musleabi
ARCHES = $(foreach target,$(or $(TARGET),$(TARGETS)),$(firstword $(subst -, ,$(target))))

# What the full tests use, from Debian 12: package tools, FTP and HTTP servers, daemons that fork, and lint tools.
DEPS = build-essential ca-certificates curl git python3 python3-jsonschema python3-yaml procps strace xz-utils busybox-static \
	dpkg-dev rpm minisign openssl nginx-light vsftpd libsodium23 python3-pyftpdlib snmpd zabbix-agent collectd-core \
	cron openssh-server redis-server haproxy rsyslog \
	shellcheck mandoc systemd faketime chromium zsh fish bsdutils
# These are only unpacked below target/deps, as installing them would remove vsftpd.
DEPS_UNPACKED = pure-ftpd pure-ftpd-common
# The supervisors that make bench compares with, and its tools.
DEPS_BENCH = build-essential curl python3 monit supervisor runit s6 busybox-static valgrind
DEPS_CROSS = rustc-web cargo-web rust-web-src python3 python3-venv binutils file git xz-utils \
	qemu-user-static qemu-system-x86 qemu-system-arm e2fsprogs debian-archive-keyring

.DEFAULT_GOAL := build
IN_SERVER = cd server && CARGO_TARGET_DIR=target $(CARGO)

.PHONY: server server-check server-test server-bench server-browser server-pictures demo-fleet help build release test check deny audit fuzz test-tls scripts fleet soak bench deps deps-cross deps-bench cross size test-cross test-vm demo install uninstall clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

build: ## build for this machine, unoptimised
	$(CARGO) build --locked

release: ## build for this machine, optimised as for a release
	$(CARGO) build --locked --release

test: ## run all tests and check that they leave nothing behind; with BOOTAGENT_TEST_ALL=1 a skipped test fails
	CARGO="$(CARGO)" tests/run

check: scripts deny ## formatting, lints, documentation, import order
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --test layers

# Without cargo-deny, cargo tree checks what the lock file alone shows: crates in two versions, and other licences.
deny:
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --all-features check bans licenses sources; else \
		twice=$$($(CARGO) tree --locked -e normal --target all -d --depth 0 --prefix none | sort -u); \
		[ -z "$$twice" ] || { echo "make check: crates in two versions:" $$twice >&2; exit 1; }; \
		other=$$($(CARGO) tree --locked -e normal --target all --prefix none -f '{p}: {l}' | sort -u | \
			grep -vE '(MIT|Apache-2.0|ISC)( |$$|\))' || true); \
		[ -z "$$other" ] || { echo "make check: other licences: $$other" >&2; exit 1; }; \
		echo "licences and duplicates checked by cargo tree, as cargo-deny is not installed"; fi

audit: ## look for known faults in the dependencies; needs cargo-deny, and the network for the advisory database
	@command -v cargo-deny >/dev/null || { echo "make audit: cargo-deny is missing (cargo install --locked cargo-deny)" >&2; exit 1; }
	@$(CARGO) deny fetch db || { echo "make audit: the advisory database cannot be reached: nothing was checked" >&2; exit 1; }
	@$(CARGO) deny --offline --all-features check advisories || { echo "make audit: there are known faults in the dependencies, see above" >&2; exit 1; }

# New inputs go to fuzz/found. This command moves those that are worth keeping to fuzz/corpus: cargo fuzz run TARGET --
# -merge=1 -set_cover_merge=1 -use_counters=0 -max_len=1024 fuzz/corpus/TARGET fuzz/found/TARGET
fuzz: ## run each fuzzer for a minute (FUZZ_SECONDS=60); needs the nightly toolchain and cargo-fuzz
	@$(CARGO) +nightly version >/dev/null 2>&1 || { \
		echo "make fuzz: the nightly toolchain is missing (rustup toolchain install nightly)" >&2; exit 1; }
	@command -v cargo-fuzz >/dev/null || { echo "make fuzz: cargo-fuzz is missing (cargo install --locked cargo-fuzz)" >&2; exit 1; }
	for target in server helpers children definitions records control; do \
		mkdir -p fuzz/found/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target tests/proto tests/records examples/agents.d -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=1 -rss_limit_mb=512 || exit 1; \
	done

test-tls: ## run the tests of the tls build, against nginx
	$(CARGO) test --locked --features tls --test tls

fleet: ## simulate 100,000 hosts and run DAEMONS=500 real daemons for MINUTES=10; updates docs/fleet.md
	$(CARGO) build --locked --release --bin bootagent --example server
	FLEET_HOSTS=100000 FLEET_DAEMONS=$(DAEMONS) FLEET_MINUTES=$(MINUTES) FLEET_PAGE=docs/fleet.md \
		$(CARGO) test --locked --release --test fleet -- --nocapture --test-threads 1

soak: ## run one daemon and 200 failing agents for HOURS=1; updates its part of docs/fleet.md
	SOAK_HOURS=$(HOURS) SOAK_PAGE=docs/fleet.md $(CARGO) test --locked --release --test soak -- --nocapture

scripts:
	@command -v shellcheck >/dev/null || { echo "make check: shellcheck is missing (make deps)" >&2; exit 1; }
	@command -v mandoc >/dev/null || { echo "make check: mandoc is missing (make deps)" >&2; exit 1; }
	shellcheck $$(grep -rlE '^#!/bin/(ba)?sh' . --exclude-dir=target --exclude-dir=.git --exclude-dir=node_modules --exclude='*.rs' --exclude='*.md')
	mandoc -T lint man/bootagent.8 man/bootagent.json.5 man/bootserver.8

deps: ## install the packages that the full tests use (Debian, root); starts no service
	.ci/apt $(DEPS)
	.ci/unpack target/deps $(DEPS_UNPACKED)
	$(MAKE) server/tests/browser/node_modules
	@command -v $(CARGO) >/dev/null || { echo "make deps: cargo is missing: see https://rustup.rs" >&2; exit 1; }

deps-cross: ## install the packages that cross, test-cross and test-vm use (Debian, root)
	.ci/apt $(DEPS_CROSS)
	test -x target/cross/tools/bin/pip || /usr/bin/python3 -m venv target/cross/tools
	target/cross/tools/bin/pip install --quiet --disable-pip-version-check -r cross/requirements.txt

deps-bench: ## install the supervisors that bench compares with (Debian, root); starts no service
	.ci/apt $(DEPS_BENCH)

cross: ## build static binaries and tarballs for TARGET, or for all four targets; TLS=1 builds them with https
	TLS=$(TLS) cross/build $(or $(TARGET),$(TARGETS))
	TLS=$(TLS) cross/pack $(foreach target,$(or $(TARGET),$(TARGETS)),$(firstword $(subst -, ,$(target))))

size: ## fail when a cross-built binary is over its budget, on disk or in memory
	cross/size $(ARCHES)

test-cross: ## run the black-box tests with the cross-built binaries under qemu-user
	cross/test $(ARCHES)

test-vm: ## boot real kernels under qemu-system and test the cross-built binaries in them
	tests/vm/run

bench: ## measure beside other supervisors and update docs/benchmarks.md (root, an idle machine; after make cross)
	bench/run $(BENCH)

demo: ## see it work: server, daemon, install, kill, upgrade; no root needed; KEEP=1 leaves it up until Enter
	@KEEP=$(KEEP) sh examples/demo.sh

server: ## build bootserver, the control server, as server/target/release/bootserver
	$(IN_SERVER) build --locked --release

server-check: ## bootserver: formatting, lints, import order, licences
	$(IN_SERVER) fmt --check
	$(IN_SERVER) clippy --locked --all-targets -- -D warnings
	$(IN_SERVER) test --locked --test layers
	@if command -v cargo-deny >/dev/null; then $(IN_SERVER) deny check bans licenses sources; else \
		other=$$($(IN_SERVER) tree --locked -e normal --target all --prefix none -f '{p}: {l}' | sort -u | \
			grep -vE '(MIT|Apache-2.0|ISC|Zlib|Unicode-3.0|BSD-3-Clause)( |$$|\))' || true); \
		[ -z "$$other" ] || { echo "make server-check: other licences: $$other" >&2; exit 1; }; fi

server-bench: ## bootserver: measure it with 100,000 played hosts; an idle machine, some minutes
	server/bench/run

# Only what the lock file names, and none of its scripts.
server/tests/browser/node_modules: server/tests/browser/package-lock.json
	@command -v npm >/dev/null || { echo "make server-browser: node and npm are missing: see https://nodejs.org" >&2; exit 1; }
	cd server/tests/browser && npm ci --ignore-scripts --no-audit --no-fund && touch node_modules

server-browser: server/tests/browser/node_modules ## bootserver: a day with its pages in a real browser; needs node and chromium
	$(IN_SERVER) build --locked
	node server/tests/browser/day.mjs

server-pictures: server/tests/browser/node_modules ## take the pictures of the docs from the demo
	mkdir -p docs/pictures
	DEMO_THEN='node server/tests/browser/pictures.mjs docs/pictures' sh server/demo.sh

demo-fleet: ## see a fleet in a browser: bootserver and five daemons, one of them broken; no root needed
	sh server/demo.sh

server-test: build ## test bootserver, with real daemons on loopback
	$(IN_SERVER) test --locked

install: $(BIN) ## install under DESTDIR and PREFIX; BIN=target/cross/ARCH/bootagent for a static binary
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/bootagent
	install -D -m 644 man/bootagent.8 $(SHARE)/man/man8/bootagent.8
	install -D -m 644 man/bootagent.json.5 $(SHARE)/man/man5/bootagent.json.5
	install -D -m 644 src/cli/completion/bash.sh $(SHARE)/$(BASH_COMPLETION)
	install -D -m 644 src/cli/completion/zsh.zsh $(SHARE)/$(ZSH_COMPLETION)
	install -D -m 644 src/cli/completion/fish.fish $(SHARE)/$(FISH_COMPLETION)

target/release/bootagent:
	$(CARGO) build --locked --release

uninstall: ## remove the files of make install; configuration and state stay
	rm -f $(DESTDIR)$(PREFIX)/sbin/bootagent
	rm -f $(SHARE)/man/man8/bootagent.8 $(SHARE)/man/man5/bootagent.json.5
	rm -f $(SHARE)/$(BASH_COMPLETION) $(SHARE)/$(ZSH_COMPLETION) $(SHARE)/$(FISH_COMPLETION)

clean: ## remove everything built, of bootserver too
	$(CARGO) clean
	$(IN_SERVER) clean

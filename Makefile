# Thin over cargo. Everything a target needs beyond Rust is set up by integration/tools/setup, before its first use.
PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
HOST    := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
OUT     := $(or $(CARGO_TARGET_DIR),target)
# Static binaries: the glibc target links statically only when --target is given.
STATIC  := -C target-feature=+crt-static -C relocation-model=static
INSTALL := berth containerd-shim-berth-v2
# Their packages by name: what the tests' programs ask of a shared crate must not change what is installed.
SHIPPED := -p berth-cli -p containerd-shim-berth-v2
# Built by themselves: what they ask of a shared crate must not change the two programs above.
HELPERS := berth-image berth-setup
# A release: no path of this machine is in a program, so that two builds in two directories give the same bytes.
ARCH    ?= $(firstword $(subst -, ,$(HOST)))
DIST    := $(abspath $(OUT))/dist-build
DIST_TO := $(ARCH)-unknown-linux-gnu
REMAP    = --remap-path-prefix=$(DIST)=/target --remap-path-prefix=$(CURDIR)=/berth --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo \
	--remap-path-prefix=$(shell rustc --print sysroot)=/rust
TOOLS    = $(notdir $(basename $(wildcard integration/src/bin/*.rs integration/bench/src/bin/*.rs)))
# A berth whose defences a test can take out. The packages above are named with it so that it shares their dependencies.
WEAK    := -p berth-cli --features berth-cli/weak --bin berth
RUNTIMES := berth runc
FLOORS   := berth-null-shim berth-bare
BENCH    ?=
# The integration tests are built as the programs that they use, and with them: so one build serves the native run and the
# test machines, which have a libc of their own. (Under emulation a debug build is slow.)
TEST     = RUSTFLAGS="$(STATIC)" $(CARGO) test --no-fail-fast --profile tools -p berth-integration -p berth-bench --target $(HOST) --target-dir $(OUT)
# What a run of the tests said is kept there.
TEST_LOGS = $(abspath $(OUT))/test-logs
RUNS    ?= 30
LOADS   := busy disk
# Test machines: their names, where logs of failures go, and the runner that has cargo's test programs run in one.
VM      ?= sid bookworm selinux
VM_LOGS  = $(abspath $(OUT))/vm
VM_RUN   = $(abspath $(OUT))/release/berth-vm
VM_TEST  = $(TEST) --config "target.'cfg(all())'.runner=['$(VM_RUN)', 'guest']"
# Coverage for libFuzzer: these passes of LLVM are in the stable compiler. The target directory is their own, since every crate
# is instrumented.
FUZZ_FLAGS := -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
	-C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares
FUZZ_DIR   := $(abspath $(OUT))/fuzz
# The time of one target, in seconds.
SECONDS    ?= 60
# All but what measures; without FULL=1 and TESTS a machine runs what integration/vm/tests lists.
VM_FULL  = $(addprefix --test ,$(filter-out budget,$(notdir $(basename $(wildcard integration/tests/*.rs)))))

.PHONY: help build tools floors demo bench check test test-unit test-integration faults kills steady races upgrades soak clean-room nightly test-vm vm-shell \
	fuzz budget docs conformance advisories install dist dist-check clean needs-build needs-unit needs-fuzz needs-test needs-demo needs-bench \
	needs-dist needs-clean-room
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

# What is missing is installed, or said in a line.
needs-build needs-unit needs-fuzz needs-test needs-demo needs-bench needs-dist needs-clean-room: needs-%:
	@integration/tools/setup $* > /dev/null

build: needs-build ## static release binaries in target/release: berth, containerd-shim-berth-v2, berth-image and berth-setup
	RUSTFLAGS="$(STATIC)" $(CARGO) build --quiet --release $(SHIPPED) $(addprefix --bin ,$(INSTALL)) --target $(HOST) --target-dir $(OUT)
	for b in $(HELPERS); do RUSTFLAGS="$(STATIC)" $(CARGO) build --quiet --release -p $$b --bin $$b --target $(HOST) --target-dir $(OUT) || exit; done
	@mkdir -p $(OUT)/release
	@for b in $(INSTALL) $(HELPERS); do ln -f $(OUT)/$(HOST)/release/$$b $(OUT)/release/$$b; done

tools: needs-build # what the tests and the demo run beside them; built without the release's slow last mile
	RUSTFLAGS="$(STATIC)" $(CARGO) build --quiet --profile tools -p berth-integration -p berth-bench --bins --target $(HOST) --target-dir $(OUT)
	@mkdir -p $(OUT)/release
	@for b in $(TOOLS); do ln -f $(OUT)/$(HOST)/tools/$$b $(OUT)/release/$$b; done
	RUSTFLAGS="$(STATIC)" $(CARGO) build --quiet --profile tools -p berth-integration -p berth-bench $(WEAK) --target $(HOST) --target-dir $(OUT)
	@ln -f $(OUT)/$(HOST)/tools/berth $(OUT)/release/berth-weak

floors: tools # what the benchmark holds berth against is built as berth is
	RUSTFLAGS="$(STATIC)" $(CARGO) build --quiet --release -p berth-bench $(addprefix --bin ,$(FLOORS)) --target $(HOST) --target-dir $(OUT)
	@for b in $(FLOORS); do ln -f $(OUT)/$(HOST)/release/$$b $(OUT)/release/$$b; done

bench: needs-bench ## berth beside its peers and the floors, in one run: table, results and plots in target/bench (as root)
	@$(MAKE) --no-print-directory build tools floors
	@BERTH_TOOLS="$$(integration/tools/setup bench)" BERTH_BIN_DIR=$(abspath $(OUT))/release \
		$(OUT)/release/berth-bench --out $(OUT)/bench $(BENCH)

demo: needs-demo ## run a pod through containerd and crictl, look inside, take it all down
	@$(MAKE) --no-print-directory build tools
	@BERTH_TOOLS="$$(integration/tools/setup demo)" BERTH_BIN_DIR=$(abspath $(OUT))/release $(OUT)/release/berth-demo

check: needs-unit ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

test: needs-test ## unit tests and integration tests (as root); integration tests once more with runc as the runtime
	@$(MAKE) --no-print-directory build tools
	@integration/tools/suite $(TEST_LOGS) unit $(RUNTIMES)

test-unit: needs-unit ## unit tests alone; no root needed
	$(CARGO) test --no-fail-fast --workspace --exclude berth-integration --exclude berth-bench

test-integration: needs-test ## integration tests alone, after a build; RUNTIME=runc tests the tests
	BERTH_TOOLS="$$(integration/tools/setup test)" BERTH_BIN_DIR=$(abspath $(OUT))/release RUNTIME=$(or $(RUNTIME),berth) \
		$(TEST) $(TESTS)

# Both write their figures into docs/security/matrices.md; SCENES='run,create start' picks operations, without their commas.
faults: needs-test build tools ## each system call of the runtime fails once with each error: what is left is an error or the same container
	$(MAKE) --no-print-directory test-integration TESTS="--test runtime_faults -- --ignored --nocapture --test-threads=1 failing"

kills: needs-test build tools ## the runtime is killed, and its child stopped, before each system call: nothing is left
	$(MAKE) --no-print-directory test-integration TESTS="--test runtime_faults -- --ignored --nocapture --test-threads=1 kills stopped"

steady: ## the tests RUNS times (30) after `make test`, one line a run; LOAD=busy or LOAD=disk beside a load
	@integration/tools/suite --steady $(RUNS) $(TEST_LOGS) unit $(RUNTIMES)

races: needs-test build tools ## the tests of races, ROUNDS containers (200) for each kind of path and each swap
	@BERTH_RACES=$(or $(ROUNDS),200) $(MAKE) --no-print-directory test-integration \
		TESTS="$(addprefix --test ,runtime_path_races runtime_caller_races runtime_operation_races shim_races)"

upgrades: needs-test build tools ## a shim under load takes a new program UPGRADES times (1,000): no call, exit or byte is lost
	@BERTH_UPGRADES=$(or $(UPGRADES),1000) $(MAKE) --no-print-directory test-integration \
		TESTS="--test shim_upgrade --test shim_upgrade_load -- --nocapture"

soak: needs-test build tools ## weeks of use in an hour: PODS=, EXECS=, PROBED= pods probed for MINUTES=; prints tables
	@BERTH_TOOLS="$$(integration/tools/setup test)" BERTH_BIN_DIR=$(abspath $(OUT))/release $(OUT)/release/berth-soak

clean-room: ## make demo and make test, or a COMMAND, on a minimal Debian with Rust and Go and nothing else of this machine
	@integration/tools/clean-room $(if $(COMMAND),'$(COMMAND)')

nightly: test ## what takes hours: the tests 10 times, and 10 times beside each load, all of them in the test machines, fuzzing, races, upgrades, both matrices, the soak, the benchmark, the release
	@failed=; for load in '' $(LOADS); do LOAD=$$load $(MAKE) --no-print-directory steady RUNS=10 || failed="$$failed steady:$$load"; done; \
		$(MAKE) --no-print-directory test-vm FULL=1 || failed="$$failed test-vm"; \
		$(MAKE) --no-print-directory fuzz SECONDS=600 || failed="$$failed fuzz"; \
		for long in races upgrades faults kills soak bench dist-check; do $(MAKE) --no-print-directory $$long || failed="$$failed $$long"; done; \
		test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

fuzz: needs-fuzz ## run a fuzz target under libFuzzer for a time: TARGET=NAME SECONDS=60; all in turn without TARGET
	@RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --quiet --profile fuzz -p berth-fuzz --features engine --target $(HOST) --target-dir $(FUZZ_DIR)
	@integration/tools/fuzz $(FUZZ_DIR) $(FUZZ_DIR)/$(HOST)/fuzz/berth-fuzz $(SECONDS) $(TARGET)

budget: needs-test build tools ## write integration/budget.toml anew: what an operation may cost, as measured now
	BERTH_BUDGET=write $(MAKE) --no-print-directory test-integration TESTS="--test budget"

test-vm: needs-test build tools ## integration tests in machines with systemd, cgroup v2 and AppArmor or SELinux; VM=sid, bookworm or selinux, TESTS=, FULL=1
	@$(TEST) --no-run --quiet
	@failed=; export BERTH_BIN_DIR=$(abspath $(OUT))/release; $(foreach m,$(VM),$(VM_RUN) run $m $(VM_LOGS)/$m -- \
		env $(if $(TESTS)$(FULL),$(VM_TEST) $(or $(TESTS),$(VM_FULL)),integration/vm/tests $m env $(VM_TEST)) \
		|| failed="$$failed $m"; )test -z "$$failed" || { echo "failed in:$$failed" >&2; exit 1; }

vm-shell: needs-test build tools ## a shell in a test machine (VM=sid unless told), or one COMMAND
	@BERTH_BIN_DIR=$(abspath $(OUT))/release $(VM_RUN) shell $(firstword $(VM)) $(VM_LOGS)/shell $(if $(COMMAND),-- '$(COMMAND)')

docs: needs-unit ## write docs/cli/, the manual pages and completions of shells, anew from the table of commands
	BERTH_DOCS=write $(CARGO) test --quiet -p berth-cli --bin berth manual

conformance: needs-unit ## write docs/conformance.md, the pages of docs/security and the counts in docs/decisions anew
	BERTH_CONFORMANCE=write $(CARGO) test --quiet -p berth-integration --lib -- conformance counts ledger each_crate

advisories: needs-unit ## take integration/advisories.txt over from DB, a checkout of github.com/rustsec/advisory-db
	BERTH_ADVISORIES=$(abspath $(DB)) $(CARGO) test --quiet -p berth-integration --lib -- lock_file

install: ## install the binaries, manual pages and completions into PREFIX (default /usr/local), after a build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man8
	for b in $(INSTALL) $(HELPERS); do install -m 0755 $(OUT)/release/$$b $(DESTDIR)$(PREFIX)/bin/$$b; done
	install -m 0644 docs/cli/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -D -m 0644 docs/cli/completions/berth.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth
	install -D -m 0644 docs/cli/completions/_berth $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_berth
	install -D -m 0644 docs/cli/completions/berth.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/berth.fish

dist: needs-dist ## a release in target/dist: tarball, .deb, .rpm, sources, SBOM, SHA256SUMS; SIGN_KEY=FILE signs, as openssl does
	@export RUSTFLAGS="$(STATIC) $(REMAP)" CFLAGS="-ffile-prefix-map=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo -ffile-prefix-map=$(DIST)=/target"; \
		$(CARGO) build --quiet --locked --release $(SHIPPED) $(addprefix --bin ,$(INSTALL)) --target $(DIST_TO) --target-dir $(DIST) && \
		for b in $(HELPERS); do $(CARGO) build --quiet --locked --release -p $$b --bin $$b --target $(DIST_TO) --target-dir $(DIST) || exit; done
	@integration/tools/dist $(DIST)/$(DIST_TO)/release $(OUT)/dist $(ARCH)

dist-check: needs-clean-room ## build the release twice and compare the bytes; install and remove the .deb in a minimal Debian (as root)
	@integration/tools/dist-check

clean: ## remove what was built
	$(CARGO) clean

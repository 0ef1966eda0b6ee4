# `make` alone says what there is. Each target installs what it lacks.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help prerequisites build package demo test lint site-kernel demo-disk bench-index bench-vault bench-agent bench-chunking bench-line fuzz

# Where rustup puts cargo, ahead of a distribution's older one.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

# Network namespaces and taps want root; the compiler does not.
TEST_RUNNER := $(if $(filter-out 0,$(shell id -u)),sudo -E env PATH=$(PATH))

# Where tests find the programs.
DEBUG := $(or $(CARGO_TARGET_DIR),target)/debug

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: prerequisites ## Build the five programs (target/release)
	@cargo build --release --locked --workspace

package: prerequisites ## Build the agent as one static program, a .deb and an .rpm (target/package)
	@agent/package/build

demo: build ## Show the main job on a real server's disk; DISK=/path/to/disk.raw for your own
	@DISK='$(DISK)' tests/demo/run

test: export RELEVO_SEEDS := $(or $(SEEDS),10000)
test: prerequisites site-kernel demo-disk ## Run every test, those with a real guest included; SEEDS=N simulated worlds (10000)
	@cargo rustc --locked --package relevo-agent --bin relevo-agent -- -C target-feature=+crt-static
	@mv $(DEBUG)/relevo-agent $(DEBUG)/relevo-agent-static
	@cargo build --locked --workspace --bins
	@$(if $(TEST_RUNNER),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='$(TEST_RUNNER)') cargo test --locked --workspace
	@tests/demo-disk/test

lint: prerequisites ## Check format, lints and documentation
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --workspace --quiet

bench-index: prerequisites ## Measure the chunk index; CHUNKS=1M,10M,100M for more, DIR=/where/to
	@cargo bench --locked --package relevo-vault --bench index

# The peers that are built rather than installed are found there.
BENCH = PATH=$(or $(RELEVO_CACHE),$(HOME)/.cache/relevo)/bench/bin:$$PATH RELEVO_LOG=error \
	$(or $(CARGO_TARGET_DIR),target)/release/relevo-bench

bench-vault: build demo-disk ## Measure beside restic, borg and rustic; RELEVO_BENCH_DIR=/where/to
	@tests/install-bench-peers
	@$(BENCH) vault

bench-agent: build demo-disk ## Measure the agent beside six others, as root; RELEVO_BENCH_SIZE=1600M for less
	@tests/install-bench-peers
	@$(if $(TEST_RUNNER),$(TEST_RUNNER) env )$(BENCH) agent

bench-chunking: build demo-disk ## Measure where to cut disks into chunks; RELEVO_BENCH_DIR=/where/to
	@$(BENCH) chunking

bench-line: build ## Measure uploads over long, lossy lines (about 12 minutes)
	@RELEVO_LOG=error $(or $(CARGO_TARGET_DIR),target)/release/relevo-bench-line

fuzz: ## Feed one parser with mutated inputs until stopped; TARGET=pack, more without
	@tests/fuzz/run $(TARGET)

prerequisites: ## Install the packages and the Rust that are missing
	@tests/install-prerequisites

site-kernel: prerequisites ## Build the site kernel, once (about 9 minutes of processor time)
	@tests/site-kernel/build

demo-disk: prerequisites ## Build the server that demo and tests image, once (about 4 minutes)
	@tests/demo-disk/build --base-only

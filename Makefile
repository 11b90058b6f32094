# Every target does its own set-up. Labs need root: without it, sudo is asked for where it is needed.

CARGO := $(shell command -v cargo || echo $$HOME/.cargo/bin/cargo)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
RUNNER := $(if $(SUDO),--config 'target."cfg(all())".runner = "sudo -E"')
LAB := $(or $(CARGO_TARGET_DIR),target)/release/weft-lab
REPS ?= 5
SECONDS ?= 600

.PHONY: build demo test soak lint bench fuzz setup clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## real servers and clients through weft, and what became of their packets (KEEP=1 leaves the lab up)
	$(SUDO) $(LAB) demo $(if $(KEEP),--keep)

build: setup ## target/release/weft and weft-lab
	$(CARGO) build --release -p weft -p weft-bench --bins

test: setup ## every test: unit, property, BPF programs, labs
	.ci/test

soak: setup ## hostile pods, churn, oracle, reloads and TCP at full length: minutes of frames, 100,000 connections
	$(CARGO) build --workspace --bins
	WEFT_LAB_SOAK=true $(CARGO) test $(RUNNER) --workspace --test scenarios -- hostile churn oracle svc45 fast_path upgrade tcp

lint: setup ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: build ## weft against the kernel's paths and proxies (SCENARIOS="l4-rr-p50 ..." REPS=5), with a report in target/bench
	@.ci/setup bench
	$(SUDO) $(LAB) bench $(SCENARIOS) --reps $(REPS) --json target/bench/report.json --html target/bench/report.html

fuzz: setup ## looks for input that breaks a rule (TARGET=parse|process|decap|ingest|http|http1|h2|hop|config, SECONDS=600 each)
	.ci/fuzz $(SECONDS) $(TARGET)

setup: ## installs what is missing
	@.ci/setup

clean: ## removes what dead or kept labs left, and the build
	@if [ -x $(LAB) ]; then $(SUDO) $(LAB) clean; fi
	$(CARGO) clean

# Everything a developer or CI runs. `make help` lists it. Builds are kept in $SLUICE_CACHE, outside
# the checkout, so that a fresh clone finds what an earlier one compiled.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down fmt lint lint-rust lint-files test test-unit crds chart deny docs e2e e2e-given bench bench-router bench-detect images cluster cluster-down ci

export SLUICE_CACHE ?= $(HOME)/.cache/sluice
export CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target
export MAKE
claimed := $(shell hack/claim-target "$(CARGO_TARGET_DIR)")
CLUSTER := e2e/cluster/cluster
# What `e2e`, `demo` and `bench` start with: a cluster, and the images of this checkout in it.
ready = $(CLUSTER) up && tag="$$(images/build --load)" && eval "$$tag" && eval "$$($(CLUSTER) env)"

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

demo: ## Bring up a cluster, install Sluice, roll out a good model and a bad one, and show what happens
	@$(ready) && "$$SLUICE_BIN_DIR/sluice-e2e" demo

demo-down: cluster-down ## Take away everything that the demo brought

fmt: ## Format the sources
	cargo fmt --all

lint: lint-rust lint-files ## Check form, lints and documentation; a warning is an error

lint-rust:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

lint-files:
	@e2e/cluster/prerequisites
	@hack/lint-files

test: ## Everything that decides whether a change may land, in order, each with its time
	@hack/phases lint test-unit chart e2e e2e-given

test-unit: ## Tests that need neither root nor a cluster
	SLUICE_ONNXRUNTIME="$$(images/onnxruntime)" cargo test --locked
	cargo test --locked -p sluice-e2e --lib --test local

crds: ## Write the generated definitions into the chart
	UPDATE=1 cargo test --locked -p sluice-crds --test generated

chart: ## Lint the chart, render it, and check the result against the Kubernetes API
	cargo test --locked -p sluice-crds --test generated
	@hack/chart

deny: ## Check licences, bans and sources of the dependencies
	@hack/deny

docs: ## Build the documentation of every crate
	cargo doc --locked --workspace --no-deps
	@echo "open $$CARGO_TARGET_DIR/doc/index.html"

e2e: ## Run the scenarios on a real cluster
	@$(ready) && cargo test --locked -p sluice-e2e --test '*' -- --test-threads=2 --nocapture

e2e-given: ## Roll out on a second cluster, of which only kubeconfig and registry are known
	@hack/given-cluster

bench: ## Run the benchmarks on a real cluster; BENCH_FLAGS="--only rollback" and the like
	@$(ready) && SLUICE_COMMIT="$$(git describe --always --dirty --abbrev=40 --exclude='*' || echo unknown)" \
		"$$SLUICE_BIN_DIR/sluice-e2e" bench $(BENCH_FLAGS)

bench-router: ## Measure the router beside its peers, on loopback, without a cluster; BENCH_FLAGS="--quick" and the like
	@hack/bench-router $(BENCH_FLAGS)

bench-detect: ## Measure how soon a bad canary is out, in virtual time; BENCH_FLAGS="--trials 20" and the like
	@SLUICE_COMMIT="$$(git describe --always --dirty --abbrev=40 --exclude='*' || echo unknown)" \
		cargo run --locked --release -p sluice-router --example detect -- $(BENCH_FLAGS)

images: ## Build the images and load them into the cluster, where one is up
	@if [ -f "$${SLUICE_KUBECONFIG:-$${SLUICE_CLUSTER_DIR:-.cluster}/kubeconfig}" ]; then images/build --load; else images/build; fi

cluster: ## Bring up the cluster; see e2e/cluster/cluster for which
	@$(CLUSTER) up
	@echo 'To use it: eval "$$($(CLUSTER) env)"'

cluster-down: ## Take the cluster down
	@$(CLUSTER) down

ci: ## What CI runs
	@.ci/run

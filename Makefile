# One command for each thing that people and CI do. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Engines and tools are kept here; git ignores it.
CACHE := $(or $(LOCALFRONT_CACHE),$(CURDIR)/.cache)
export LOCALFRONT_CACHE := $(CACHE)
# Static everywhere, and the same build cache with or without a C compiler.
export CGO_ENABLED := 0
# Trees without VCS state, or with somebody else's, build as well.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --always --dirty 2>/dev/null || echo devel)

# The shipped binary. No path, VCS state or build id goes into it, so the same
# sources give the same bytes. grpcnotrace leaves gRPC's debug pages and the
# template engines behind them out, which makes it a fifth smaller.
GO_BUILD := go build -trimpath -buildvcs=false -tags grpcnotrace -ldflags "-s -w -buildid= -X main.version=$(VERSION)"

BIN ?= bin/frontend

PLATFORMS := linux/amd64 linux/arm64 linux/arm/v7 linux/386 linux/ppc64le linux/riscv64 linux/s390x

# Packages whose tests need no engine.
UNIT = $(shell go list ./... | grep -vE '/(tests|bench|internal/testengine)(/|$$)')

# $(call phase,NAME,TARGET) runs a target under a heading, and says how long it
# took.
phase = @printf '\n== %s ==\n' '$(1)'; start=$$SECONDS; $(MAKE) $(2); echo "-- $(1): $$((SECONDS - start)) s"

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: frontend
frontend: ## build the frontend for this machine: bin/frontend
	@mkdir -p $(dir $(BIN))
	$(GO_BUILD) -o $(BIN) ./cmd/frontend

.PHONY: deps
deps: ## install the Debian packages that tests and the demo need
	@hack/apt.sh
	@hack/busybox.sh

.PHONY: engines
engines: ## build buildkitd, buildx, registry … once, into .cache/bin
	@hack/engines/build.sh

.PHONY: test
test: ## everything that CI runs: packages, engines, lint, all tests
	$(call phase,Debian packages,deps)
	$(call phase,engines,engines)
	$(call phase,frontend,frontend)
	$(call phase,lint,lint)
	$(call phase,agent bytes,agent-check)
	$(call phase,tests,test-all)

.PHONY: test-all
test-all:
	go test -vet=off -timeout 40m ./... # lint has looked

.PHONY: test-unit
test-unit: ## the tests that need no engine
	go test $(UNIT)

# SEED picks the moments at which faults strike.
SEED ?= 1

# Each of these is a process of its own, so that one that fails takes nothing
# with it. Two tests share the processors, but those that fill them.
SOAK ?= TestManyBuilds TestDaemonKilled,TestManyNames TestCancelled,TestFrontendKilled TestDiskFull,TestClock \
	TestPrunedAllTheTime,TestChurn TestRegistryFaults,TestNoDNS

.PHONY: soak
soak: ## faults and load in full counts, for an hour; writes docs/reliability.md
	@hack/engines/build.sh buildkit
	@$(MAKE) -s frontend
	@go test -c -o bin/faults.test ./tests/faults
	@cd tests/faults; failed=; for run in $(SOAK); do \
		printf '\n== %s, %s ==\n' "$$run" "$$(date)"; \
		$(CURDIR)/bin/faults.test -test.v -test.timeout 4h -test.run "^($${run//,/|})$$" -soak -seed=$(SEED) -update || failed+=" $$run"; \
	done; echo "soak: failed:$${failed:- nothing}"; test -z "$$failed"

.PHONY: test-engines
test-engines: deps engines frontend ## every road on every kind of builder; ENGINE=oci for one row of docs/engines.md
	go test -timeout 1h -count=1 -v -run 'TestMatrix/^$(or $(ENGINE),.*)$$' ./tests -roads

.PHONY: agent-check
agent-check: ## rebuild the agents and compare with the committed bytes
	@frontend/agents/build.sh --check --install
	@echo "the agents' bytes are those of their sources"

.PHONY: lint
lint: ## run every linter
	@hack/lint/run.sh

.PHONY: fix
fix: ## mend what linters can mend: formatting, go.mod files, goldens stay
	@hack/lint/run.sh --fix

.PHONY: sbom
sbom: ## list what the frontend is made of: bin/frontend.spdx.json
	@mkdir -p bin
	go run ./hack/deps -sbom > bin/frontend.spdx.json

.PHONY: cross
cross: ## compile for all seven platforms
	@for p in $(PLATFORMS); do \
		IFS=/ read -r os arch variant <<<"$$p"; \
		echo "cross: $$p"; \
		GOOS=$$os GOARCH=$$arch GOARM=$${variant#v} $(GO_BUILD) -o $(CACHE)/cross/$${p//\//-} ./cmd/frontend; \
	done

.PHONY: reproducible
reproducible: ## build the frontend in two places and compare the bytes
	@VERSION=$(VERSION) hack/reproducible.sh

.PHONY: demo
demo: ## show on real engines what localfront ends
	@hack/apt.sh
	@hack/engines/build.sh buildkit buildx
	@$(MAKE) -s frontend
	@go build -o $(CACHE)/demo ./hack/demo && exec $(CACHE)/demo

.PHONY: bench
bench: ## measure against the official frontend, into docs/performance.md
	@hack/apt.sh
	@hack/engines/build.sh buildkit buildx
	@$(MAKE) -s frontend
	@go build -o $(CACHE)/bench ./bench && $(CACHE)/bench -write docs/performance.md $(BENCH)

.PHONY: clean
clean: ## remove what was built; the engines stay, in .cache
	rm -rf bin

# Mooring. Every target does its own set-up; test, demo and bench need root.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# The lab's Kubernetes and the agent share a build cache: same flags for both.
export CGO_ENABLED ?= 0
E2E = cd e2e && go
BUILD = cd build && go
# Debian suite of the image's packages; empty: this machine's own apt sources.
SUITE ?=
ARCH ?= $(shell go env GOARCH)
LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
.PHONY: build generate setup test test-unit test-race test-sim test-lab soak mutants lint vuln bench bench-services demo test-build image image-archive bundle

build: # The binary, bin/mooring.
	go build -ldflags "-X main.version=$(VERSION)" -o bin/mooring ./cmd/mooring

generate: # Deep copies and the CRD's YAML, after a change of api/.
	go generate ./api/...

setup: # Installs what tests and demo use and the machine lacks (Debian, Ubuntu).
	@sh e2e/setup.sh

test: setup test-race test-sim test-build test-lab # Everything: unit and namespace tests under the race detector, real control planes.

test-unit: # Without the race detector, quickly.
	go vet ./... && go test -count=1 ./...

test-race: # The same under the race detector.
	go vet ./... && CGO_ENABLED=1 go test -race -count=1 -timeout 15m ./...

test-sim: # The ownership protocol, simulated: 5,000 seeded stories of faults.
	go test -count=1 -timeout 10m ./election -run TestSoak -soak 5000
soak: # The same, 200,000.
	go test -count=1 -timeout 120m ./election -run TestSoak -soak 200000

mutants: # Seeded bugs, each of which the simulation must find.
	go test -count=1 -timeout 60m -v ./election -run TestMutants -mutants

test-lab: # Stories on real control planes; builds Kubernetes the first time.
	$(E2E) vet ./... && go test -count=1 -timeout 60m ./lab/... ./stage/... ./cmd/... && go test -count=1 -timeout 60m -parallel 2 -v ./scenarios/...

lint: # House rules: golangci-lint with depguard.
	go run $(LINT) run ./... && $(E2E) run $(LINT) run --config ../.golangci.yml ./... && cd ../build && go run $(LINT) run --config ../.golangci.yml ./...

vuln: # Known holes in what we link.
	go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

bench: setup # Figures beside keepalived and a direct API server, as ratios.
	$(E2E) run ./cmd/bench
bench-services: setup # Figures of a thousand and five thousand Services.
	$(E2E) run ./cmd/scale
demo: setup # The main job, shown: VIP up, power off, planned move. KEEP=1 leaves it running.
	$(E2E) run ./cmd/demo

test-build: # The bundle, twice from two folders, installed under every shell here (root, apt).
	$(BUILD) vet ./... && go test -count=1 -timeout 30m -v ./...
image: # The container image, by an engine and a registry for its base.
	docker build --build-arg VERSION=$(VERSION) -t mooring:$(VERSION) .
image-archive: # The same without either, out of Debian packages: dist/mooring-image-….tar.
	$(BUILD) run . image --version "$(VERSION)" --arch $(ARCH) --suite "$(SUITE)"
bundle: # Everything for a site without internet: dist/mooring-VERSION-linux-ARCH.tar.gz.
	$(BUILD) run . bundle --version "$(VERSION)" --arch $(ARCH) --suite "$(SUITE)"

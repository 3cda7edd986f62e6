# Everything is built, signed, bundled and tested from here. `make help` lists the targets.
# A fresh Debian 12 machine needs Go, gcc, make and root; what else is needed is
# installed by `make prerequisites` (as root on Debian), or named.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

DIST ?= dist
# The bundles that `make airgap` makes, and the platforms that it makes them for:
# make airgap PLATFORMS=linux/amd64,linux/arm64
SETS      ?= core canal flannel ingress-nginx
HOST_ARCH := $(shell go env GOHOSTARCH)
export PLATFORMS ?= linux/$(HOST_ARCH)
comma     := ,
ARCHES    := $(patsubst linux/%,%,$(subst $(comma), ,$(PLATFORMS)))

# REGISTRY and REPO, if they are set, name the images (default: images/product.yaml).

# One environment for build, test and lint, so that they share Go's build cache, with each
# other and, flags, netgo and osusergo being those of the images' programs, with these.
# The engine wants to be told its name at link time; the rest of the tags leave
# out what this product does not run.
TAGS   := selinux,netgo,osusergo,no_stage,static_build,sqlite_omit_load_extension,no_embedded_executor,no_cri_dockerd
ENGINE := -X=github.com/k3s-io/k3s/pkg/version.Program=rke2
export CGO_ENABLED := 1
export GOFIPS140   := v1.0.0
NO_DEBUG := -gcflags=all=-dwarf=false
export GOFLAGS     := -trimpath -buildvcs=false $(NO_DEBUG) -tags=$(TAGS) -ldflags=$(ENGINE)

# Read once each by the tests: where the products are.
export RKE2_DIST := $(abspath $(DIST))

RKE2_BUILD := $(DIST)/rke2-build
LINT       := $(DIST)/tools/golangci-lint

# Our own programs in images are modules of their own, tested as they are built for images,
# so that nothing is compiled twice.
AS_IN_IMAGES := CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false $(NO_DEBUG) -tags=netgo,osusergo'
OWN_PROGRAMS := $(sort $(dir $(shell find images -mindepth 2 -name '*_test.go' -not -path '*/*/*/*/*')))

# What the two programs are linked from, so that nothing changed is nothing done. Files
# that tests alone read are left out.
SOURCES := go.mod go.sum Makefile $(shell find cmd airgap runtime build install charts/*.go images/*.go -type f \
  -not -name '*_test.go' -not -path '*/testdata/*' -not -name '*.md')

# The node binary of this machine, and those of other architectures beside it.
NODES := $(foreach a,$(ARCHES),$(DIST)/rke2$(if $(filter-out $(HOST_ARCH),$(a)),.linux-$(a)))
HOST_NODE := $(DIST)/rke2

##@ Products

.PHONY: runtime-image
runtime-image: $(RKE2_BUILD) ## Build, assemble, sign and attest every image into one OCI layout (dist/oci)
	$(RKE2_BUILD) all --dist $(DIST)

.PHONY: airgap
airgap: runtime-image $(HOST_NODE) $(NODES) ## The main job: images, node binary, signed airgap bundles, checksums
	@for arch in $(ARCHES); do \
	  $(HOST_NODE) bundle airgap --layout $(DIST)/oci $(SETS:%=--set %) --platform linux/$$arch --output-dir $(DIST) && \
	  $(HOST_NODE) bundle verify $(SETS:%=$(DIST)/rke2-images-%.linux-$$arch.tar) && \
	  $(HOST_NODE) bundle closure --all-charts --platform linux/$$arch --config /dev/null --data-dir $(DIST)/none \
	    $(SETS:%=$(DIST)/rke2-images-%.linux-$$arch.tar) || exit 1; \
	done

.PHONY: release
release: airgap ## The drop-in artifacts: binary tarballs, image sets, signed sums, SBOMs, install.sh (dist/release)
	$(RKE2_BUILD) drop-in --dist $(DIST)

.PHONY: rke2-build
rke2-build: $(RKE2_BUILD) ## The build tool (dist/rke2-build)

$(RKE2_BUILD): $(SOURCES) | prerequisites
	go build -o $@ ./cmd/rke2-build

.PHONY: rke2
rke2: $(HOST_NODE) $(NODES) ## The node binary, which carries the release's public key and image digests (dist/rke2)

# Written again only if the release is another.
$(DIST)/release.json: runtime-image ;

# What it is built from is written down first: its provenance says so (make release).
$(sort $(NODES) $(HOST_NODE)): $(SOURCES) $(DIST)/release.json
	@sha256sum $(filter-out build/% cmd/rke2-build/%,$(SOURCES)) >$@.sources.partial && \
	  (cd $(DIST) && sha256sum release.json) >>$@.sources.partial
	GOARCH=$(or $(patsubst .linux-%,%,$(suffix $@)),$(HOST_ARCH)) \
	$(if $(suffix $@),CC=$(CC_$(patsubst .linux-%,%,$(suffix $@)))) \
	go build -overlay $(DIST)/overlay.json \
	  -ldflags '-s -w -linkmode=external -extldflags=-static $(ENGINE)' -o $@ ./cmd/rke2
	@(cd $(@D) && sha256sum $(@F)) >>$@.sources.partial && mv $@.sources.partial $@.sources

# Debian's cross compilers.
CC_amd64 := x86_64-linux-gnu-gcc
CC_arm64 := aarch64-linux-gnu-gcc

##@ Checks

.PHONY: test
test: airgap lint test-unit test-rebuild test-sealed ## All tests, a boot on a sealed host among them

.PHONY: test-unit
test-unit: ## Unit and integration tests (need the products of `make airgap`)
	go test -timeout 30m $$(go list ./... | grep -v -e /tests/sealed -e /tests/bench)
	@for d in $(OWN_PROGRAMS); do echo "go test ./$$d/..." && (cd $$d && $(AS_IN_IMAGES) go test ./...) || exit 1; done

.PHONY: test-rebuild
test-rebuild: ## Build a small image again from nothing: the same bytes (all images: `rke2-build verify-rebuild`)
	$(RKE2_BUILD) verify-rebuild --dist $(DIST) mirrored-pause

.PHONY: test-sealed
test-sealed: ## Real nodes on hosts with no network (root; need the products of `make airgap`)
	go test -count=1 -p 1 -timeout 45m ./tests/sealed/...
	@cat $(DIST)/sealed-charts.txt $(DIST)/sealed-figures.txt

.PHONY: lint
lint: $(LINT) ## gofmt, go vet, golangci-lint, go mod tidy
	hack/tidy
	go vet ./...
	$(LINT) run ./...

$(LINT): hack/tools/golangci-lint/go.mod
	cd hack/tools/golangci-lint && $(AS_IN_IMAGES) \
	  go build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: bench
bench: ## Measure against named peers, as ratios in one run (needs the products of `make airgap`)
	@hack/prerequisites zstd umoci
	go test -run '^$$' -bench . -benchtime 1x -timeout 90m ./tests/bench/...

.PHONY: generate
generate: ## Rewrite generated documents and golden files
	go test ./airgap/manifest ./charts ./cmd/rke2 ./cmd/rke2-build ./runtime/pod -update

##@ Try it

.PHONY: demo
demo: airgap ## Boot a node on a sealed host and open a shell with kubectl in it
	go run ./tests/sealed/cmd/demo

##@ Housekeeping

.PHONY: prerequisites
prerequisites: ## Install what is missing on this host (root on Debian), or name it
	@hack/prerequisites

.PHONY: env
env: ## Print the environment that go is run with here
	@printf "export %s='%s'\n" CGO_ENABLED '$(CGO_ENABLED)' GOFIPS140 '$(GOFIPS140)' GOFLAGS '$(GOFLAGS)' RKE2_DIST '$(RKE2_DIST)'

.PHONY: clean
clean: ## Remove the products (the build cache stays: see `rke2-build --help`)
	rm -rf $(DIST)

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

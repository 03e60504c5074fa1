# keybroker. `make` alone lists what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Tools, pinned. They are built into bin/ when they are first needed; the
# module's own go.mod, which users of the SDK inherit, knows nothing of them.
BUF_VERSION            := v1.75.0
PROTOC_GEN_GO_VERSION  := v1.36.12
PROTOC_GEN_GRPC_VERSION := v1.6.2
STATICCHECK_VERSION    := v0.8.2
GOSEC_VERSION          := v2.28.0
GRPCURL_VERSION        := v1.9.4
GHZ_VERSION            := v0.93.0

# Each version of a tool has a folder of its own, and those of the pinned versions come
# first in PATH: what a recipe calls is the version it asks for, also after going back to
# an older pin.
TOOLS := $(CURDIR)/bin/tools
define tool # name, package, version
export PATH := $(TOOLS)/$(1)-$(3):$$(PATH)
bin/tools/$(1)-$(3)/$(1):
	@echo "building $(1) $(3)"
	@GOBIN=$(TOOLS)/$(1)-$(3) GOFLAGS=-mod=mod go install $(2)@$(3)
endef
$(eval $(call tool,buf,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION)))
$(eval $(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO_VERSION)))
$(eval $(call tool,protoc-gen-go-grpc,google.golang.org/grpc/cmd/protoc-gen-go-grpc,$(PROTOC_GEN_GRPC_VERSION)))
$(eval $(call tool,staticcheck,honnef.co/go/tools/cmd/staticcheck,$(STATICCHECK_VERSION)))
$(eval $(call tool,gosec,github.com/securego/gosec/v2/cmd/gosec,$(GOSEC_VERSION)))
$(eval $(call tool,grpcurl,github.com/fullstorydev/grpcurl/cmd/grpcurl,$(GRPCURL_VERSION)))
$(eval $(call tool,ghz,github.com/bojand/ghz/cmd/ghz,$(GHZ_VERSION)))
BUF := bin/tools/buf-$(BUF_VERSION)/buf \
	bin/tools/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)/protoc-gen-go \
	bin/tools/protoc-gen-go-grpc-$(PROTOC_GEN_GRPC_VERSION)/protoc-gen-go-grpc
STATICCHECK := bin/tools/staticcheck-$(STATICCHECK_VERSION)/staticcheck
GOSEC       := bin/tools/gosec-$(GOSEC_VERSION)/gosec
GRPCURL     := bin/tools/grpcurl-$(GRPCURL_VERSION)/grpcurl
GHZ         := bin/tools/ghz-$(GHZ_VERSION)/ghz
# What gosec is not asked for; single lines say why by themselves (#nosec).
#   G115  integers converted to another size: those of the arithmetic are of known sign, and
#         tested against another implementation; the others are counts and lengths that
#         are bounded where they come in
#   G304  files opened by a variable: every path is the operator's, by flag or configuration
GOSEC_WITHOUT := G115,G304

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## a broker on 127.0.0.1:7070 with simulated keys, until Ctrl-C
	@exec bin/keybroker serve --sandbox

.PHONY: demo
demo: ## broker, sandbox and a fleet of 24 services for 20 s
	go run ./cmd/keybroker demo

.PHONY: build
build: ## the program, as bin/keybroker
	go build -o bin/keybroker ./cmd/keybroker

# The timeouts of tests end those that hang. No test is judged by them.

.PHONY: test
test: ## every package, with the race detector; vet is in lint
	go test -race -vet=off -timeout 1h ./...
	go test -vet=off -timeout 1h -run '^TestTrust|^TestTrueWords$$' ./pool

# The packages whose tests are more, or have more cases, with the tag long or by KILLS.
LONG = $(sort $(dir $(shell grep -rlE --include='*_test.go' '^//go:build long|internal/testing/long"|Getenv\("KILLS"\)' pool server client cmd internal)))

.PHONY: test-long
test-long: ## what takes long: mutants, kills, a siege, all scenarios, more cases
	KILLS=$${KILLS:-60} SIEGE=$${SIEGE:-1000} go test -race -vet=off -tags long -timeout 10h $(addprefix ./,$(LONG))
	$(MAKE) soak SOAK=$${SOAK:-100000}

.PHONY: trust
trust: ## what speakers of every kind cost the others, in all worlds, as tables
	go test -count=1 -v -tags long -timeout 1h -run '^TestTrust|^TestTrueWords$$' ./pool

.PHONY: test-sdks
test-sdks: ## official SDKs and a Node client against the broker
	cd sdktest && go test -race -timeout 1h ./...

.PHONY: mutants
mutants: ## plant bugs in the engine and see each one caught
	go test -count=1 -tags long -timeout 10h -v ./internal/testing/mutants

.PHONY: bench
bench: ## speed, beside a bare grpc-go echo and Redis, to docs/benchmarks.md
	@mkdir -p bin && rm -f bin/bench.out
	go test -run '^$$' -bench . -benchmem ./pool | tee -a bin/bench.out
	go test -run '^$$' -bench . -benchtime 1x ./server | tee -a bin/bench.out
	cd sdktest && go test -run '^$$' -bench . -benchtime 1x -v . | tee -a ../bin/bench.out
	go test -run '^$$' -bench 'ReadHeaders|Stream' ./internal/provider | tee -a bin/bench.out
	go test -run '^$$' -bench . -benchmem ./client | tee -a bin/bench.out
	go test -run '^$$' -bench . ./internal/store/bolt | tee -a bin/bench.out
	go test -run '^$$' -bench . ./internal/app | tee -a bin/bench.out
	go run ./internal/benchdoc <bin/bench.out >bin/benchmarks.md
	mv bin/benchmarks.md docs/benchmarks.md

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@for pkg in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-30s} $$pkg; \
		done; \
	done

.PHONY: soak
soak: ## the property that judges the engine, SOAK times (default 1000000)
	go test -count=1 -timeout 0 -run '^TestProviderNeverRefuses$$' ./pool -rapid.checks=$${SOAK:-1000000}

.PHONY: siege
siege: ## honest clients while a broker is attacked, with SIEGE (default 10000) connections
	SIEGE=$${SIEGE:-10000} go test -count=1 -tags long -timeout 10h -v ./internal/testing/siege

.PHONY: kill
kill: ## a real broker, killed 200 times (or KILLS)
	KILLS=$${KILLS:-200} go test -race -count=1 -timeout 10h -run '^TestKill$$' -v ./internal/testing/killtest

.PHONY: generate
generate: $(BUF) ## gen/ from proto/
	buf format -w
	buf generate

.PHONY: check-generate
check-generate: $(BUF) ## fail if gen/ is not what proto/ says
	@out=$$(mktemp -d) && trap 'rm -rf '$$out EXIT && buf generate -o $$out && \
		diff -r $$out/gen gen || { echo "gen/ is stale: run make generate"; exit 1; }

.PHONY: proto
proto: $(BUF) ## lint and format of proto/
	buf lint
	buf format --diff --exit-code

# What proto/ is compared with; a release's tag, once there is one.
AGAINST ?= .git\#ref=HEAD~1
.PHONY: breaking
breaking: $(BUF) ## fail if proto/ breaks those who use it (AGAINST=.git#tag=v1.0.0)
	buf breaking --against '$(AGAINST)'

.PHONY: lint
lint: $(STATICCHECK) $(GOSEC) ## format, vet, staticcheck and gosec
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }
	go vet ./...
	go vet -tags long,failpoints ./...
	staticcheck ./...
	staticcheck -tags long,failpoints ./...
	gosec -quiet -exclude-generated -exclude=$(GOSEC_WITHOUT) ./...
	@go mod tidy -diff

.PHONY: ci
ci: ## what must be green for a change to land
	bash .ci/run

.PHONY: tour-tools
tour-tools: $(GRPCURL) $(GHZ) ## grpcurl and ghz, as bin/grpcurl and bin/ghz
	@cp $^ bin

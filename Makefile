# Ossify. `make run` builds a Debian disk image; `make test` runs every test.

TAGS    := exclude_graphdriver_btrfs containers_image_openpgp netgo osusergo
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO       = $(shell scripts/setup --go)
PREFIX  ?= /usr/local
SAMPLE  ?= samples/debian-minimal.toml

export CGO_ENABLED = 1

.PHONY: all build program run test lint bench compare install install-osbuild-alias setup clean
all: build

setup:
	scripts/setup build

build: setup program

program:
	$(GO) build -trimpath -buildvcs=false -tags "$(TAGS)" \
		-ldflags '-s -w -extldflags -static -X main.version=$(VERSION)' -o build/ossify ./cmd/ossify

run:
	scripts/setup build run
	$(MAKE) --no-print-directory program
	build/ossify compose $(SAMPLE) -o output

test:
	scripts/setup build run test
	scripts/test

lint: setup
	bad=$$($$($(GO) env GOROOT)/bin/gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "not formatted: $$bad"; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) vet -tags "$(TAGS) osbuild" ./stages ./assemblers

bench:
	scripts/setup build run test bench
	$(MAKE) --no-print-directory program
	test/bench/run

# OSBUILD is a checkout of osbuild.
compare:
	scripts/setup build run test compare
	$(MAKE) --no-print-directory program
	$(GO) build -trimpath -buildvcs=false -tags "$(TAGS)" -o build/treediff ./test/osbuild/treediff
	cd stages && $(GO) test -count=1 -timeout 30m -tags "$(TAGS) osbuild" -run TestOsbuild
	$(GO) test -count=1 -tags "$(TAGS) osbuild" -run TestOsbuild ./assemblers
	test/osbuild/compare
	$(GO) run -tags "$(TAGS)" ./test/osbuild/inspect

install:
	install -D -m 755 build/ossify $(DESTDIR)$(PREFIX)/bin/ossify

# Programs that start osbuild then start ossify, which answers in its place.
install-osbuild-alias: install
	ln -sf ossify $(DESTDIR)$(PREFIX)/bin/osbuild

clean:
	rm -rf build

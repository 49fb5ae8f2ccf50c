# Ossify. `make run` builds a Debian disk image; `make test` runs every test.

TAGS    := exclude_graphdriver_btrfs containers_image_openpgp netgo osusergo
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO       = $(shell scripts/setup --go)
PREFIX  ?= /usr/local
SAMPLE  ?= samples/debian-minimal.toml

export CGO_ENABLED = 1

.PHONY: all build program run test test-faults lint bench compare install install-osbuild-alias install-helper setup clean
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

# About an hour: every system call of a build at which it can be killed, or fail.
test-faults:
	scripts/setup build run test
	scripts/test faults

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

build/ossify-loop: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $@ ./cmd/ossify-loop
FORCE:

# The privileged helper: docs/helper.md. Users get it with
# usermod --append --groups ossify USER.
install-helper: build/ossify-loop
	install -D -m 755 build/ossify-loop $(DESTDIR)$(PREFIX)/libexec/ossify-loop
	install -d $(DESTDIR)$(PREFIX)/bin
	ln -sf ../libexec/ossify-loop $(DESTDIR)$(PREFIX)/bin/ossify-loop
	test -n "$(DESTDIR)" || getent group ossify >/dev/null || groupadd --system ossify
	if test -n "$(DESTDIR)" || test -d /run/systemd/system; then \
		install -D -m 644 contrib/ossify-loop.socket $(DESTDIR)/etc/systemd/system/ossify-loop.socket; \
		install -d $(DESTDIR)/etc/systemd/system; \
		sed 's|@PREFIX@|$(PREFIX)|' contrib/ossify-loop.service >$(DESTDIR)/etc/systemd/system/ossify-loop.service; \
	fi
	if test -z "$(DESTDIR)" && test -d /run/systemd/system; then \
		systemctl daemon-reload && systemctl enable --now ossify-loop.socket; \
	elif test -z "$(DESTDIR)"; then \
		echo "no systemd here; start it with: sudo mkdir -p /run/ossify-loop && sudo $(PREFIX)/bin/ossify-loop --listen /run/ossify-loop/socket"; \
	fi

clean:
	rm -rf build

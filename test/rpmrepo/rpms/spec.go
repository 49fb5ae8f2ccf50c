package rpms

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pkg is a package to build.
type pkg struct {
	name string
	// evr is "EPOCH:VERSION-RELEASE"; the epoch may be left out.
	evr string
	// arch is x86_64 if empty.
	arch string
	// tags are lines of the preamble, such as "Requires: bash >= 5".
	tags []string
	// scripts are bodies by the section's head, such as "%post".
	scripts map[string]string
	files   []file
	// deb is the Debian package whose files these are, or empty.
	deb       string
	conffiles []string
	// updates puts it into the repository of updates.
	updates bool
	// key signs it: "test" if empty, "other", or "none".
	key string
}

func (p *pkg) architecture() string {
	if p.arch == "" {
		return "x86_64"
	}
	return p.arch
}

// splitEVR returns the epoch, which may be empty, the version and the release.
func splitEVR(evr string) (epoch, version, release string) {
	if e, rest, ok := strings.Cut(evr, ":"); ok {
		epoch, evr = e, rest
	}
	version, release, _ = strings.Cut(evr, "-")
	return epoch, version, release
}

func (p *pkg) spec(t *tree) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	epoch, version, release := splitEVR(p.evr)
	// Everything is used as it is: nothing is stripped, compressed or searched.
	line("%%global debug_package %%{nil}")
	line("%%global __os_install_post %%{nil}")
	line("%%global _build_id_links none")
	line("Name: %s\nVersion: %s\nRelease: %s", p.name, version, release)
	if epoch != "" {
		line("Epoch: %s", epoch)
	}
	line("Summary: %s for tests\nLicense: as of its source\nAutoReqProv: no", p.name)
	if p.arch == "noarch" {
		line("BuildArch: noarch")
	}
	for _, tag := range p.tags {
		line("%s", tag)
	}
	line("%%description\nA package for tests.")
	line("%%install\ncp -al '%s'/. %%{buildroot}/", t.root)
	for _, head := range slices.Sorted(maps.Keys(p.scripts)) {
		line("%s\n%s", head, p.scripts[head])
	}
	line("%%files\n%s", strings.Join(t.lines, "\n"))
	return b.String()
}

// buildTime is the time of every package, in seconds since 1970.
const buildTime = "1750000000"

// build makes the package in a folder of out.
func (p *pkg) build(ctx context.Context, work, out string) error {
	dir, err := os.MkdirTemp(work, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &tree{root: filepath.Join(dir, "tree")}
	if err := os.Mkdir(t.root, 0o755); err != nil {
		return err
	}
	if p.deb != "" {
		if err := unpackDeb(ctx, p.deb, t, p.conffiles); err != nil {
			return fmt.Errorf("unpack %s: %w", p.deb, err)
		}
	}
	for _, f := range p.files {
		if err := t.add(f); err != nil {
			return err
		}
	}
	spec := filepath.Join(dir, p.name+".spec")
	if err := os.WriteFile(spec, []byte(p.spec(t)), 0o644); err != nil {
		return err
	}
	argv := []string{"rpmbuild", "-bb", "--quiet", "--target", p.architecture()}
	for name, value := range map[string]string{
		"_topdir": dir, "_rpmdir": out, "_dbpath": filepath.Join(dir, "db"),
		"_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
		"_buildhost":      "ossify.invalid", "_binary_payload": "w3.zstdio",
		"use_source_date_epoch_as_buildtime": "1", "clamp_mtime_to_source_date_epoch": "1",
		"_unpackaged_files_terminate_build": "0",
	} {
		argv = append(argv, "--define", name+" "+value)
	}
	return run(ctx, dir, []string{"HOME=" + dir, "SOURCE_DATE_EPOCH=" + buildTime}, append(argv, spec)...)
}

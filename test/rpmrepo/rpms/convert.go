package rpms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/dpkg"
)

// unpackDeb puts the files of a Debian package into a tree.
func unpackDeb(ctx context.Context, deb string, t *tree, conffiles []string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = t.unpack(out, conffiles)
	if err != nil {
		// What is left in the pipe would keep the program waiting.
		out.Close()
	}
	if e := cmd.Wait(); err == nil && e != nil {
		err = fmt.Errorf("%w: %s", e, stderr.String())
	}
	return err
}

// convert makes packages of RPM of Debian packages.
func convert(ctx context.Context, dir string) ([]*pkg, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	var all []*pkg
	known := map[string]bool{}
	var debs []*dpkg.Package
	for _, path := range paths {
		d, err := dpkg.Open(path)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		debs = append(debs, d)
		known[d.Name] = true
		provides, err := dpkg.ParseRelations(d.Control.Get("Provides"))
		if err != nil {
			return nil, fmt.Errorf("%s: Provides: %w", d.Name, err)
		}
		for _, p := range provides {
			known[p[0].Name] = true
		}
	}
	for _, d := range debs {
		p, err := convertOne(ctx, d, known)
		if err != nil {
			return nil, fmt.Errorf("convert %s: %w", d.Name, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// relations are the fields of Debian that RPM has as well. Breaks is not among
// them: it would bring nothing but conflicts with packages that are not here.
var relations = []struct{ deb, rpm string }{
	{"Pre-Depends", "Requires(pre)"}, {"Depends", "Requires"}, {"Recommends", "Recommends"},
	{"Suggests", "Suggests"}, {"Provides", "Provides"}, {"Conflicts", "Conflicts"},
}

func convertOne(ctx context.Context, d *dpkg.Package, known map[string]bool) (*pkg, error) {
	p := &pkg{name: d.Name, evr: debEVR(d.Version), deb: d.Path}
	if d.Arch == "all" {
		p.arch = "noarch"
	}
	if name, ok := fedoraNames[d.Name]; ok {
		p.name = name
		p.tags = append(p.tags, "Provides: "+d.Name+" = "+p.evr)
	}
	for _, name := range alsoCalled[d.Name] {
		// RPM wants no version behind a path.
		if !strings.HasPrefix(name, "/") {
			name += " = " + p.evr
		}
		p.tags = append(p.tags, "Provides: "+name)
	}
	for _, r := range relations {
		all, err := dpkg.ParseRelations(d.Control.Get(r.deb))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.deb, err)
		}
		for _, a := range all {
			if text := relation(a, known); text != "" {
				p.tags = append(p.tags, r.rpm+": "+text)
			}
		}
	}
	extra := additions[d.Name]
	p.files, p.scripts = extra.files, extra.scripts
	p.tags = append(p.tags, extra.tags...)
	// Everything lies on the directories and accounts of the first two.
	if d.Name != "base-passwd" {
		p.tags = append(p.tags, "Requires(pre): setup")
	}
	var err error
	p.conffiles, err = conffiles(ctx, d.Path)
	return p, err
}

// relation returns alternatives as RPM writes them, without those that are not
// in the repository.
func relation(a dpkg.Alternatives, known map[string]bool) string {
	var parts []string
	for _, r := range a {
		if !known[r.Name] {
			continue
		}
		parts = append(parts, strings.TrimSpace(r.Name+" "+condition(r)))
	}
	switch len(parts) {
	case 0:
		return ""
	case 1:
		return parts[0]
	}
	return "(" + strings.Join(parts, " or ") + ")"
}

// condition returns the versions of a relation as RPM writes them. Without a
// revision, ">> 2.36" is true of 2.36-1 in Debian, but "> 2.36" is not in RPM.
func condition(r dpkg.Relation) string {
	revision := strings.Contains(r.Version, "-")
	switch {
	case r.Op == "":
		return ""
	case r.Op == ">>" && !revision:
		return ">= " + r.Version
	case !revision:
		return strings.Replace(r.Op, "<<", "<", 1) + " " + r.Version
	}
	return strings.NewReplacer("<<", "<", ">>", ">").Replace(r.Op) + " " + debEVR(r.Version)
}

// debEVR makes a version of RPM of one of Debian.
func debEVR(v string) string {
	epoch, rest, ok := strings.Cut(v, ":")
	if !ok {
		epoch, rest = "", v
	} else {
		epoch += ":"
	}
	cut := strings.LastIndex(rest, "-")
	if cut < 0 {
		return epoch + rest + "-1"
	}
	return epoch + strings.ReplaceAll(rest[:cut], "-", ".") + rest[cut:]
}

// conffiles returns the paths of a Debian package that its list of configuration
// files has.
func conffiles(ctx context.Context, deb string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--info", deb, "conffiles").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		// The package has none.
		return nil, nil
	}
	return slices.Collect(strings.FieldsSeq(string(out))), err
}

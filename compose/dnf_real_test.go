package compose

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ossify/ossify/test/rpmrepo/rpms"
)

// realMirror serves the repository of real packages.
func realMirror(t *testing.T) Options {
	t.Helper()
	dir, err := rpms.Cached(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("no_proxy", "127.0.0.1")
	return Options{
		Distro: "fedora-42", Type: "tar", Mirror: rpms.Serve(t, dir).URL, Keyring: filepath.Join(dir, "RPM-GPG-KEY-test"),
		StateDir: filepath.Join(t.TempDir(), "state"), Exec: loud(t),
	}
}

// packagesOf lists the files of the packages of a manifest.
func packagesOf(t *testing.T, data []byte) []string {
	t.Helper()
	var out []string
	for _, item := range decode(t, data).Sources["org.osbuild.curl"].Items {
		out = append(out, item.URL[strings.LastIndexByte(item.URL, '/')+1:])
	}
	slices.Sort(out)
	return out
}

// What the manifest pins is what the mirror has.
func TestPinsOfRealPackages(t *testing.T) {
	opts := realMirror(t)
	data := mustCompose(t, blueprint(t, simpleFedora), opts)
	items := decode(t, data).Sources["org.osbuild.curl"].Items
	if len(items) < 60 {
		t.Errorf("only %d packages", len(items))
	}
	for ref, item := range items {
		resp, err := http.Get(item.URL)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); err != nil || got != ref || n != item.Size {
			t.Errorf("%s: %d bytes, %s, %v; pinned are %d, %s", item.URL, n, got, err, item.Size, ref)
		}
	}
}

// The choices that a solver has to make, made by dnf.
func TestChoices(t *testing.T) {
	opts := realMirror(t)
	for _, c := range []struct {
		name, packages string
		change         func(*Options)
		// want are packages that must be there, not those that must not.
		want, not []string
	}{
		{"newest of all repositories", `{ name = "test-tool" }`, nil, []string{"test-tool-2.0-1"}, []string{"test-tool-1"}},
		{"version", `{ name = "test-tool", version = "1.*" }`, nil, []string{"test-tool-1.1-1"}, []string{"test-tool-2"}},
		{"version and release", `{ name = "test-tool", version = "1.0-1" }`, nil, []string{"test-tool-1.0-1"}, []string{"test-tool-1.1", "test-tool-2"}},
		{"dependency on an old version", `{ name = "test-needs-old-tool" }, { name = "test-tool" }`, nil, []string{"test-tool-1.1-1"}, []string{"test-tool-2"}},
		{"epoch", `{ name = "test-epoch" }`, nil, []string{"test-epoch-3.0-1"}, []string{"test-epoch-5"}},
		{"provided name", `{ name = "test-mail-client" }, { name = "test-mta-big" }`, nil, []string{"test-mta-big"}, []string{"test-mta-small"}},
		{"rich dependency", `{ name = "test-rich" }`, nil, []string{"test-mta-small"}, []string{"test-web"}},
		{"obsoleted", `{ name = "test-old-name" }`, nil, []string{"test-renamed"}, []string{"test-old-name"}},
		{"no weak dependencies", `{ name = "test-web" }`, nil, []string{"test-web-1"}, []string{"test-web-docs", "test-web-theme", "test-web-extras"}},
		{"weak dependencies", `{ name = "test-web" }`, func(o *Options) { o.WeakDependencies = true },
			[]string{"test-web-1", "test-web-docs", "test-web-theme"}, []string{"test-web-extras"}},
		{"excluded", `{ name = "test-web" }`, func(o *Options) { o.WeakDependencies, o.Exclude = true, []string{"test-web-d*"} },
			[]string{"test-web-theme"}, []string{"test-web-docs"}},
		{"excluded provider", `{ name = "test-mail-client" }`, func(o *Options) { o.Exclude = []string{"test-mta-small"} },
			[]string{"test-mta-big"}, []string{"test-mta-small"}},
		{"always excluded", "", nil, []string{"fedora-release"}, []string{"dracut-config-rescue"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := opts
			if c.change != nil {
				c.change(&o)
			}
			got := packagesOf(t, mustCompose(t, blueprint(t, "name = \"x\"\npackages = ["+c.packages+"]\n"), o))
			has := func(prefix string) bool {
				return slices.ContainsFunc(got, func(p string) bool { return strings.HasPrefix(p, prefix) })
			}
			for _, p := range c.want {
				if !has(p) {
					t.Errorf("%s is not among %v", p, got)
				}
			}
			for _, p := range c.not {
				if has(p) {
					t.Errorf("%s is there", p)
				}
			}
		})
	}
}

func TestRealConflict(t *testing.T) {
	bp := blueprint(t, "name = \"x\"\npackages = [{ name = \"test-mta-big\" }, { name = \"test-mta-small\" }]\n")
	_, err := Manifest(context.Background(), bp, realMirror(t))
	if err == nil || !strings.Contains(err.Error(), "test-mta-big-2.0-1.noarch") || !strings.Contains(err.Error(), "conflicts with") {
		t.Errorf("got %v", err)
	}
}

// A Python without the modules of distributions stands for one without dnf.
func TestNoDnf(t *testing.T) {
	m := newFedoraMirror(t, standardRPMs())
	opts := m.options()
	opts.Exec = func(ctx context.Context, c Command) error {
		c.Argv = slices.Insert(slices.Clone(c.Argv), 1, "-S")
		return plainExec(ctx, c)
	}
	_, err := Manifest(context.Background(), blueprint(t, simpleFedora), opts)
	if err == nil || !strings.Contains(err.Error(), "install the package python3-dnf or python3-libdnf5") || !strings.Contains(err.Error(), "--solver-root") {
		t.Errorf("got %v", err)
	}
}

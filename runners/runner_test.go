package runners

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ossify/ossify/module"
)

// TestMain lets the test's program be a runner, as ossify's own is.
func TestMain(m *testing.M) {
	if r, ok := module.Find(All, filepath.Base(os.Args[0])); ok {
		fmt.Fprintln(os.Stderr, r.Main(context.Background(), os.Args[1:]))
		os.Exit(125) // a runner that worked has become its command
	}
	os.Exit(m.Run())
}

// fill writes files; a content that starts with "->" is a link,
// a name that ends with "/" a folder.
func fill(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(to, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// etc lists what is in /etc and /var of the build root.
func etc(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, dir := range []string{"etc", "var"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			if e.Type() == fs.ModeSymlink {
				to, err := os.Readlink(path)
				files[rel] = "->" + to
				return err
			}
			data, err := os.ReadFile(path)
			files[rel] = string(data)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return files
}

const nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"

func TestSetUp(t *testing.T) {
	const ldconfig = "ldconfig -X"
	for _, c := range []struct {
		name   string
		family family
		root   map[string]string
		// tools are in the build root; what each says when it fails, or "".
		tools map[string]string
		want  map[string]string
		ran   []string
		err   string
	}{
		{
			name: "nothing there", family: anyLinux(),
			want: map[string]string{
				"etc/ld.so.conf": "", "etc/nsswitch.conf": nsswitch,
				"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
				"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
			},
		},
		{
			name: "debian", family: debian(),
			root: map[string]string{
				"usr/lib/os-release":                       "ID=debian\n",
				"usr/lib/x86_64-linux-gnu/":                "",
				"usr/local/lib/":                           "",
				"usr/lib/x86_64-linux-gnu.txt":             "no folder",
				"usr/share/base-passwd/passwd.master":      "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
				"usr/share/base-passwd/group.master":       "root:*:0:\nmynogroup:*:1:\n",
				"usr/share/ca-certificates/mozilla/b.crt":  "B\n\n",
				"usr/share/ca-certificates/mozilla/a.crt":  "A",
				"usr/local/share/ca-certificates/own.crt":  "own\n",
				"usr/share/ca-certificates/mozilla/readme": "no",
				"var/cache/ldconfig/aux-cache":             "inodes",
			},
			tools: map[string]string{"ldconfig": "", "systemd-sysusers": "", "systemd-tmpfiles": "unknown user"},
			ran:   []string{ldconfig, "systemd-sysusers", "systemd-tmpfiles --create"},
			want: map[string]string{
				"etc/ld.so.conf":                    "/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n",
				"etc/nsswitch.conf":                 nsswitch,
				"etc/os-release":                    "->../usr/lib/os-release",
				"etc/passwd":                        "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
				"etc/group":                         "root:*:0:\nmynogroup:*:1:\nnogroup:x:65534:\n",
				"etc/ssl/certs/ca-certificates.crt": "A\nB\nown\n",
				"etc/ssl/cert.pem":                  "->certs/ca-certificates.crt",
			},
		},
		{
			name: "red hat", family: redHat(),
			root: map[string]string{
				"usr/lib64/iscsi/":                                   "",
				"usr/bin/python3":                                    "->/etc/alternatives/python3",
				"usr/bin/python3.6":                                  "",
				"usr/share/crypto-policies/DEFAULT/a.txt":            "policy",
				"usr/share/crypto-policies/back-ends/DEFAULT/a.conf": "->../../DEFAULT/a.txt",
				"usr/share/pki/ca-trust-source/bundle":               "",
				"etc/nsswitch.conf":                                  "->../usr/share/nsswitch.conf",
			},
			tools: map[string]string{"ldconfig": "", "systemd-sysusers": "", "systemd-tmpfiles": "", "trust": ""},
			ran: []string{
				ldconfig, "systemd-sysusers", "systemd-tmpfiles --create",
				"trust extract --format=pem-bundle --filter=ca-anchors --purpose=server-auth --overwrite /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
			},
			want: map[string]string{
				"etc/ld.so.conf": "/usr/lib64/iscsi\n", "etc/nsswitch.conf": nsswitch,
				"etc/passwd":                           "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
				"etc/group":                            "root:x:0:\nnobody:x:65534:\n",
				"etc/machine-id":                       strings.Repeat("f", 32) + "\n",
				"etc/alternatives/python3":             "->/usr/bin/python3.6",
				"etc/crypto-policies/back-ends/a.conf": "policy",
				"etc/pki/tls/certs/ca-bundle.crt":      "->/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
				"etc/pki/tls/cert.pem":                 "->/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
				"etc/ssl/certs":                        "->../pki/tls/certs",
			},
		},
		{
			name: "ldconfig fails", family: debian(),
			tools: map[string]string{"ldconfig": "disk full\n"},
			err:   "set up the linker: ldconfig: exit status 1: disk full",
		},
		{
			name: "sysusers fails", family: debian(),
			tools: map[string]string{"systemd-sysusers": "no such group"},
			err:   "set up users: systemd-sysusers: exit status 1: no such group",
		},
		{
			name: "tmpfiles is killed", family: debian(),
			tools: map[string]string{"systemd-tmpfiles": "killed"},
			err:   "set up folders: systemd-tmpfiles: signal: killed: ",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first map[string]string
			for range 2 { // the same each time
				root := t.TempDir()
				fill(t, root, c.root)
				var ran []string
				s := &setUp{family: c.family, root: root, run: func(tool string, args ...string) ([]byte, error) {
					says, ok := c.tools[tool]
					if !ok {
						return nil, &module.MissingTool{Tool: tool, Where: "the build root"}
					}
					ran = append(ran, strings.Join(append([]string{tool}, args...), " "))
					if says == "killed" {
						return nil, exec.Command("sh", "-c", "kill -KILL $$").Run()
					}
					if says != "" {
						return []byte(says), errors.New("exit status 1")
					}
					return nil, nil
				}}
				err := s.do()
				if c.err != "" {
					if err == nil || err.Error() != c.err {
						t.Errorf("got %v, want %s", err, c.err)
					}
					continue
				}
				got := etc(t, root)
				if err != nil || !reflect.DeepEqual(got, c.want) {
					t.Errorf("%v, files:\n%q\nwant:\n%q", err, got, c.want)
				}
				if !reflect.DeepEqual(ran, c.ran) {
					t.Errorf("ran %q, want %q", ran, c.ran)
				}
				if first != nil && !reflect.DeepEqual(got, first) {
					t.Errorf("the second time: %q", got)
				}
				first = got
			}
		})
	}
}

// container runs a command in a root directory with the machine's own /usr, as
// root of a user namespace, as the engine does.
const container = `set -e
root=$1 runner=$2; shift 2
mount -t tmpfs tmpfs "$root"
cd "$root"
mkdir usr etc var tmp dev proc run root
mount --rbind /usr usr
mount -o remount,bind,ro usr
mount --rbind /dev dev
for d in bin sbin lib lib64; do ln -s usr/$d $d; done
cp "$(readlink -f "$runner")" run/"$(basename "$runner")"
exec /usr/sbin/chroot . /run/"$(basename "$runner")" "$@"
`

// TestInContainer runs every runner on the machine's own system.
func TestInContainer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range All {
		t.Run(r.Name, func(t *testing.T) {
			runner := filepath.Join(t.TempDir(), r.Name)
			if err := os.Symlink(self, runner); err != nil {
				t.Fatal(err)
			}
			run := func(argv ...string) (string, int) {
				args := append([]string{"--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", container, "sh", t.TempDir(), runner}, argv...)
				out, err := exec.Command("unshare", args...).CombinedOutput()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				if exit != nil {
					return string(out), exit.ExitCode()
				}
				return string(out), 0
			}
			out, status := run("sh", "-c", `test -s /etc/ld.so.cache && grep -q ^root: /etc/passwd && grep -q :65534: /etc/group && echo "as wanted: $1"; exit 7`, "sh", "an argument")
			if status != 7 || !strings.Contains(out, "as wanted: an argument\n") {
				t.Errorf("status %d: %s", status, out)
			}
			if out, status := run("/usr/bin/true"); status != 0 {
				t.Errorf("status %d: %s", status, out)
			}
			if out, status := run("no-such-command"); status != 125 || !strings.Contains(out, "no-such-command is not in the build root") {
				t.Errorf("status %d: %s", status, out)
			}
			if out, status := run(); status != 125 || !strings.Contains(out, "is a runner and is started by ossify") {
				t.Errorf("status %d: %s", status, out)
			}
		})
	}
}

// TestDescriptions wants the file beside the runner that lets the engine keep
// what it set up.
func TestDescriptions(t *testing.T) {
	names := map[string]bool{}
	for i, r := range All {
		names[r.Name+".meta.json"] = true
		if i > 0 && All[i-1].Name >= r.Name {
			t.Errorf("%s is not in order", r.Name)
		}
		data, err := Schemas.ReadFile(r.Name + ".meta.json")
		if err != nil {
			t.Error(err)
			continue
		}
		var meta struct {
			Summary     string   `json:"summary"`
			Description []string `json:"description"`
			Setup       string   `json:"setup"`
		}
		if err := json.Unmarshal(data, &meta); err != nil || meta.Summary == "" || len(meta.Description) == 0 || meta.Setup != "once" {
			t.Errorf("%s: %+v, %v", r.Name, meta, err)
		}
	}
	entries, err := Schemas.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !names[e.Name()] {
			t.Errorf("%s describes no runner", e.Name())
		}
	}
}

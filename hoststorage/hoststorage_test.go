package hoststorage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/hoststorage"
)

func TestOptions(t *testing.T) {
	const ofRoot = "/var/lib/containers/storage"
	for name, test := range map[string]struct {
		// uid of the person who builds, and the table "storage" of storage.conf.
		uid, conf string
		// used are folders of storages.
		used         []string
		root, driver string
	}{
		"of an ordinary user":           {uid: "1234", root: "DIR/data/containers/storage", driver: "overlay"},
		"named for root, ordinary user": {uid: "1234", conf: `graphroot = "` + ofRoot + `"`, root: "DIR/data/containers/storage", driver: "overlay"},
		"named for root, root":          {uid: "0", conf: `graphroot = "` + ofRoot + `"` + "\n" + `driver = "vfs"`, root: ofRoot, driver: "vfs"},
		"of its own":                    {uid: "1234", conf: `graphroot = "DIR/here"`, root: "DIR/here", driver: "overlay"},
		"vfs was used":                  {uid: "1234", conf: `graphroot = "DIR/here"`, used: []string{"here/vfs-images"}, root: "DIR/here", driver: "vfs"},
		"both were used":                {uid: "1234", conf: `graphroot = "DIR/here"`, used: []string{"here/vfs-images", "here/overlay-images"}, root: "DIR/here", driver: "overlay"},
		"vfs was used, overlay is named": {uid: "1234", conf: `graphroot = "DIR/here"` + "\n" + `driver = "overlay"`,
			used: []string{"here/vfs-images"}, root: "DIR/here", driver: "overlay"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, folder := range test.used {
				if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			conf := filepath.Join(dir, "storage.conf")
			if err := os.WriteFile(conf, []byte("[storage]\n"+strings.ReplaceAll(test.conf, "DIR", dir)), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Setenv("CONTAINERS_STORAGE_CONF", conf)
			t.Setenv("_CONTAINERS_ROOTLESS_UID", test.uid)
			t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
			t.Setenv("XDG_RUNTIME_DIR", dir)
			opts, err := hoststorage.Options()
			if err != nil {
				t.Fatal(err)
			}
			if root := strings.ReplaceAll(opts.GraphRoot, dir, "DIR"); root != test.root || opts.GraphDriverName != test.driver {
				t.Errorf("got %s with %s, want %s with %s", root, opts.GraphDriverName, test.root, test.driver)
			}
		})
	}
}

func TestBrokenConf(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "storage.conf")
	if err := os.WriteFile(conf, []byte("[storage"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_STORAGE_CONF", conf)
	if _, err := hoststorage.Options(); err == nil || !strings.Contains(err.Error(), conf) {
		t.Errorf("got %v, want an error that names %s", err, conf)
	}
}

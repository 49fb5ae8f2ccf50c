package sources

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// testStorage is a container storage, which podman would have on this host.
type testStorage struct {
	storage.Store
	dir string
}

// newStorage makes a storage and lets storage.conf name it.
func newStorage(t *testing.T) *testStorage {
	t.Helper()
	base := t.TempDir()
	s := &testStorage{dir: filepath.Join(base, "storage")}
	s.configure(t)
	store, err := storage.GetStore(storage.StoreOptions{GraphDriverName: "overlay", GraphRoot: s.dir, RunRoot: filepath.Join(base, "run")})
	if err != nil {
		t.Fatal(err)
	}
	s.Store = store
	t.Cleanup(func() {
		if _, err := store.Shutdown(false); err != nil {
			t.Error(err)
		}
	})
	return s
}

// configure lets storage.conf name the storage.
func (s *testStorage) configure(t *testing.T) {
	t.Helper()
	conf := filepath.Join(filepath.Dir(s.dir), "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", s.dir, filepath.Join(filepath.Dir(s.dir), "run"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_STORAGE_CONF", conf)
}

// copied is the storage at another place, where this process has not opened it for
// writing: a process cannot do both.
func (s *testStorage) copied(t *testing.T) *testStorage {
	t.Helper()
	c := &testStorage{dir: filepath.Join(t.TempDir(), "storage")}
	if out, err := exec.Command("cp", "-a", s.dir, c.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.configure(t)
	return c
}

// pull copies an image of the registry into the storage, where it has the name
// localhost/NAME.
func (s *testStorage) pull(t *testing.T, r *registry, name string, pushed pushed) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sys := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	from, err := docker.ParseReference("//" + r.host() + "/" + name + "@" + pushed.digest)
	check(err)
	src, err := from.NewImageSource(t.Context(), sys)
	check(err)
	defer src.Close()
	to, err := imagestorage.Transport.ParseStoreReference(s.Store, "localhost/"+name+"@"+pushed.digest)
	check(err)
	dest, err := to.NewImageDestination(t.Context(), sys)
	check(err)
	defer dest.Close()
	unparsed := image.UnparsedInstance(src, nil)
	img, err := image.FromUnparsedImage(t.Context(), sys, unparsed)
	check(err)
	c := &imageCopy{src: src, dest: dest, got: func(int) {}}
	for _, layer := range img.LayerInfos() {
		check(c.blob(t.Context(), layer))
	}
	config, err := img.ConfigBlob(t.Context())
	check(err)
	_, err = dest.PutBlob(t.Context(), bytes.NewReader(config), img.ConfigInfo(), none.NoCache, true)
	check(err)
	blob, _, err := img.Manifest(t.Context())
	check(err)
	check(dest.PutManifest(t.Context(), blob, nil))
	check(dest.Commit(t.Context(), unparsed))
}

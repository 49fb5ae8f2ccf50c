package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ossify/ossify/registry"
)

// TestCredentials: the file has what is for the registries of the images, from whoever keeps
// it, and nothing else.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	t.Setenv("REGISTRY_AUTH_FILE", write("auth.json", `{"auths": {
		"one.test": {"auth": "`+encode("me:one")+`"},
		"two.test/team": {"auth": "`+encode("me:team")+`"},
		"mirror.test": {"auth": "`+encode("me:mirror")+`"},
		"other.test": {"auth": "`+encode("me:other")+`"}},
		"credHelpers": {"kept.test": "test"}}`, 0o600))
	write("docker-credential-test", "#!/bin/sh\necho '{\"Username\": \"me\", \"Secret\": \"kept\"}'\n", 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("CONTAINERS_REGISTRIES_CONF", write("registries.conf", "[[registry]]\nlocation = \"public.test\"\n[[registry.mirror]]\nlocation = \"mirror.test\"\n", 0o644))

	for name, test := range map[string]struct {
		images []string
		auths  map[string]string
		hosts  []string
	}{
		"none":      {nil, map[string]string{}, nil},
		"one":       {[]string{"one.test/a/image", "one.test/b"}, map[string]string{"one.test/a/image": "me:one", "one.test/b": "me:one"}, []string{"one.test"}},
		"a team's":  {[]string{"two.test/team/image", "two.test/image"}, map[string]string{"two.test/team/image": "me:team"}, []string{"two.test"}},
		"a helper":  {[]string{"kept.test/image"}, map[string]string{"kept.test/image": "me:kept"}, []string{"kept.test"}},
		"a mirror":  {[]string{"public.test/image"}, map[string]string{"mirror.test/image": "me:mirror"}, []string{"public.test", "mirror.test"}},
		"no secret": {[]string{"unknown.test/image"}, map[string]string{}, []string{"unknown.test"}},
		"no name":   {[]string{"Not/A Name"}, map[string]string{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			file, hosts, err := registry.Credentials(test.images)
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Auths map[string]struct{ Auth string }
			}
			if err := json.Unmarshal(file, &got); err != nil {
				t.Fatal(err)
			}
			for key, want := range test.auths {
				if got.Auths[key].Auth != encode(want) {
					t.Errorf("no credentials for %s: %s", key, file)
				}
			}
			if len(got.Auths) != len(test.auths) || !slices.Equal(hosts, test.hosts) {
				t.Errorf("got %s for %q", file, hosts)
			}
		})
	}
}

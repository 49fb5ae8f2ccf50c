package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/hoststorage"
	"github.com/ossify/ossify/registry"
	"github.com/ossify/ossify/sandbox"
)

// sourceNeeds is what a source needs of this machine besides the network and its folder of
// the store, as far as the manifest and the command line say so.
type sourceNeeds struct {
	// files and directories are those that URLs name, secrets the providers of
	// secrets.
	files, directories []string
	secrets            map[string]bool
	// images are those of registries.
	images []string
	// storage says that a container storage is read: podman's, or one of locations.
	storage   bool
	locations []string
}

// contentFolders are the folders of the store that sources fill. Others, which nobody
// knows here, get all of them.
var contentFolders = map[string]string{
	"org.osbuild.containers-storage": "org.osbuild.containers-storage",
	"org.osbuild.curl":               "org.osbuild.files",
	"org.osbuild.dnf":                "org.osbuild.dnf",
	"org.osbuild.inline":             "org.osbuild.files",
	"org.osbuild.librepo":            "org.osbuild.files",
	"org.osbuild.ostree":             "org.osbuild.ostree",
	"org.osbuild.skopeo":             "org.osbuild.containers",
	"org.osbuild.skopeo-index":       "org.osbuild.files",
}

// takesDirectories are the sources for which a file:// URL can be a repository.
var takesDirectories = []string{"org.osbuild.librepo", "org.osbuild.ostree"}

// storageCapabilities are what containers/storage needs to open a storage: it mounts to
// find out what overlay can do, and the files are those of all users of the images.
var storageCapabilities = []string{"CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"}

// Names of osbuild's providers of secrets.
const (
	mtlsSecrets     = "org.osbuild.mtls"
	rhsmSecrets     = "org.osbuild.rhsm"
	consumerSecrets = "org.osbuild.rhsm.consumer"
)

// mtlsVariables name the files of a client's certificate, where that is asked for.
var mtlsVariables = []string{
	"OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT", "OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY", "OSBUILD_SOURCES_CURL_SSL_CA_CERT",
	"OSBUILD_SOURCES_OSTREE_SSL_CLIENT_CERT", "OSBUILD_SOURCES_OSTREE_SSL_CLIENT_KEY", "OSBUILD_SOURCES_OSTREE_SSL_CA_CERT",
}

// sourceVariables are others of osbuild's sources.
var sourceVariables = []string{"OSBUILD_SOURCES_CURL_PROXY", "OSBUILD_SOURCES_OSTREE_PROXY", "OSBUILD_SOURCES_OSTREE_INSECURE"}

// redhatRepo lists the repositories of a subscription, subscriptionPaths are where the
// rest of one is, also in a container on a host that has one.
const redhatRepo = "/etc/yum.repos.d/redhat.repo"

var subscriptionPaths = []string{redhatRepo, "/etc/rhsm", "/etc/pki/entitlement", "/run/secrets", "/run/.containerenv"}

// imageVariables name the configuration of images of containers (containers-registries.conf(5)
// and its kin), or say who the person is whose it is.
var imageVariables = []string{
	"CONTAINERS_CONF", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_POLICY_JSON",
	"_CONTAINERS_USERNS_CONFIGURED", "_CONTAINERS_ROOTLESS_UID", "_CONTAINERS_ROOTLESS_GID",
}

// Where a source finds what is made for it.
const (
	authFile    = "/run/containers/auth.json"
	storageConf = "/etc/containers/storage.conf" // where osbuild looks, too
)

// confinement is what a source gets. The returned function takes away what was made for it.
func (b *builder) confinement(r *sourceRun) (_ *sandbox.Confinement, remove func() error, err error) {
	name := r.source.Name
	own := filepath.Join(b.Store.Sources(), contentFolders[name])
	if err := os.MkdirAll(own, 0o755); err != nil {
		return nil, nil, err
	}
	needs := findNeeds(r.items, r.source.Options, b.Secrets[name])
	if name == "org.osbuild.containers-storage" {
		needs.storage = true
	}
	c := &sandbox.Confinement{Own: []string{own}}
	show := func(paths ...string) {
		for _, path := range paths {
			if path = filepath.Clean(path); filepath.IsAbs(path) {
				c.Show = append(c.Show, sandbox.Bind{Source: path, Target: path})
			}
		}
	}
	for _, path := range needs.files {
		if st, err := os.Stat(path); err == nil && !st.IsDir() {
			show(path)
		}
	}
	if slices.Contains(takesDirectories, name) {
		show(needs.directories...)
	}
	c.Env = append(c.Env, variables(sourceVariables...)...)
	if needs.secrets[mtlsSecrets] {
		for _, v := range mtlsVariables {
			show(os.Getenv(v))
		}
		c.Env = append(c.Env, variables(mtlsVariables...)...)
	}
	if needs.secrets[rhsmSecrets] {
		show(subscriptionPaths...)
		show(certificatesOf(redhatRepo)...)
	}
	if needs.secrets[consumerSecrets] {
		show("/etc/pki/consumer", "/etc/rhsm")
	}
	if needs.storage || len(needs.images) > 0 {
		if err := showImages(c, needs, r.source.Module.Meta.Storage != "read-only", show); err != nil {
			return nil, nil, err
		}
	}
	c.Dir, remove, err = b.Store.Scratch("source-")
	return c, remove, err
}

// showImages shows what is configured for images of containers, the credentials for the
// registries of these, and the container storages, perhaps for writing.
func showImages(c *sandbox.Confinement, needs *sourceNeeds, writable bool, show func(...string)) error {
	c.Env = append(c.Env, variables(imageVariables...)...)
	for _, name := range imageVariables {
		show(os.Getenv(name))
	}
	auth, registries, err := registry.Credentials(needs.images)
	if err != nil {
		return err
	}
	show("/usr/share/containers")
	names := []string{"policy.json", "registries.conf", "registries.conf.d", "registries.d"}
	for _, host := range registries {
		names = append(names, filepath.Join("certs.d", host))
		show(filepath.Join("/etc/docker/certs.d", host))
	}
	for _, name := range names {
		show(filepath.Join("/etc/containers", name))
	}
	if config, err := os.UserConfigDir(); err == nil {
		for _, name := range names {
			c.Show = append(c.Show, sandbox.Bind{
				Source: filepath.Join(config, "containers", name), Target: filepath.Join(sandbox.ConfinedHome, ".config/containers", name),
			})
		}
	}
	c.Files = append(c.Files, sandbox.File{Target: authFile, Content: auth, Mode: 0o600})
	c.Env = append(c.Env, "REGISTRY_AUTH_FILE="+authFile)
	if !needs.storage {
		return nil
	}
	c.Capabilities = storageCapabilities
	opts, err := hoststorage.Options()
	if err != nil {
		return err
	}
	stores := []string{opts.GraphRoot}
	for _, o := range opts.GraphDriverOptions {
		if _, path, ok := strings.Cut(o, "imagestore="); ok {
			stores = append(stores, path)
		}
	}
	show(stores[1:]...)
	for _, path := range append(needs.locations, opts.GraphRoot) {
		if filepath.IsAbs(path) {
			c.Show = append(c.Show, sandbox.Bind{Source: path, Target: filepath.Clean(path), Writable: writable})
		}
	}
	more, err := json.Marshal(stores[1:])
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("[storage]\ndriver = %q\ngraphroot = %q\nrunroot = \"/tmp/containers-storage\"\n[storage.options]\nadditionalimagestores = %s\n",
		opts.GraphDriverName, opts.GraphRoot, more)
	c.Files = append(c.Files, sandbox.File{Target: storageConf, Content: []byte(conf), Mode: 0o644})
	c.Env = append(c.Env, "CONTAINERS_STORAGE_CONF="+storageConf)
	return nil
}

// variables are those of the environment that are set.
func variables(names ...string) []string {
	var env []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// certificatesOf are the files that a .repo file (dnf.conf(5)) names.
func certificatesOf(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // the source says so
	}
	var paths []string
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, "=")
		if strings.HasPrefix(strings.TrimSpace(key), "ssl") {
			paths = append(paths, strings.TrimSpace(value))
		}
	}
	return paths
}

// findNeeds looks through what a source is told.
func findNeeds(items map[string]json.RawMessage, options, secrets json.RawMessage) *sourceNeeds {
	n := &sourceNeeds{secrets: map[string]bool{}}
	for _, raw := range items {
		n.find(raw)
		n.findImage(raw)
	}
	n.find(options)
	// There each text may be the path of a file.
	walkStrings(secrets, func(_, text string) {
		if filepath.IsAbs(text) {
			n.files = append(n.files, text)
		}
	})
	return n
}

// find looks for URLs of files and providers of secrets.
func (n *sourceNeeds) find(raw json.RawMessage) {
	// Most items, and inline content, have none; they are not to be decoded for that.
	if !bytes.Contains(raw, []byte("file:")) && !bytes.Contains(raw, []byte("secrets")) {
		return
	}
	walkStrings(raw, func(key, text string) {
		if key == "secrets.name" {
			n.secrets[text] = true
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "file" || u.Host != "" && u.Host != "localhost" {
			return
		}
		path := filepath.Clean(u.Path)
		if !filepath.IsAbs(path) || path == "/" || isKernels(path) {
			return
		}
		n.files = append(n.files, path)
		n.directories = append(n.directories, path)
	})
}

// isKernels says whether a path is in a filesystem in which paths lead elsewhere for each
// process, or to no files.
func isKernels(path string) bool {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// findImage looks for an image of containers.
func (n *sourceNeeds) findImage(raw json.RawMessage) {
	if !bytes.Contains(raw, []byte(`"image"`)) {
		return
	}
	var item struct {
		Image struct {
			Name      string `json:"name"`
			Transport string `json:"containers-transport"`
			Location  string `json:"storage-location"`
		} `json:"image"`
	}
	switch err := json.Unmarshal(raw, &item); {
	case err != nil || item.Image.Name == "":
	case item.Image.Transport == "containers-storage":
		n.storage = true
		if item.Image.Location != "" {
			n.locations = append(n.locations, item.Image.Location)
		}
	default:
		n.images = append(n.images, item.Image.Name)
	}
}

// walkStrings calls f with every text in a JSON document, and the names of the two
// objects that it is in, as "OUTER.INNER".
func walkStrings(raw json.RawMessage, f func(key, text string)) {
	var v any
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		return
	}
	var walk func(outer, inner string, v any)
	walk = func(outer, inner string, v any) {
		switch v := v.(type) {
		case string:
			f(outer+"."+inner, v)
		case []any:
			for _, e := range v {
				walk(outer, inner, e)
			}
		case map[string]any:
			for key, e := range v {
				walk(inner, key, e)
			}
		}
	}
	walk("", "", v)
}

package sources

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/module"
)

// hostWith makes the root directory of a host with some files; ROOT in them is
// that directory.
func hostWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "ROOT", root)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestSubscriptions is which files are for a URL.
func TestSubscriptions(t *testing.T) {
	const repo = `# made by subscription-manager
[baseos]
name = BaseOS
baseurl = https://cdn.example/content/$releasever/$basearch/baseos
sslclientkey = /keys/1-key.pem
sslclientcert: /keys/1.pem

[satellite]
baseurl=https://cdn.example/a+b/os,
  https://mirror.example/os
sslclientkey=/keys/2-key.pem
sslclientcert=/keys/2.pem
sslcacert=/keys/ca.pem

[open]
baseurl=https://cdn.example/open
`
	files := func(serial, ca string) tlsFiles {
		return tlsFiles{cert: "/keys/" + serial + ".pem", key: "/keys/" + serial + "-key.pem", ca: ca}
	}
	const uep = "ROOT/etc/rhsm/ca/redhat-uep.pem"
	entitled := tlsFiles{cert: "ROOT/etc/pki/entitlement/34e.pem", key: "ROOT/etc/pki/entitlement/34e-key.pem", ca: uep}
	for name, test := range map[string]struct {
		host map[string]string
		url  string
		want tlsFiles
		err  string
	}{
		"repository":            {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://cdn.example/content/9.4/x86_64/baseos/Packages/a.rpm", files("1", uep), ""},
		"variable has no slash": {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://cdn.example/content/9/4/x86_64/baseos/a.rpm", tlsFiles{}, "no subscription of this host is for that URL"},
		"its own authority":     {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://cdn.example/a+b/os/a.rpm", files("2", "/keys/ca.pem"), ""},
		"second URL":            {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://mirror.example/os/a.rpm", files("2", "/keys/ca.pem"), ""},
		"not at the start":      {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://else.example/?https://mirror.example/os", tlsFiles{}, "no subscription"},
		"without a certificate": {map[string]string{"etc/yum.repos.d/redhat.repo": repo}, "https://cdn.example/open/a.rpm", tlsFiles{}, "no subscription"},
		"katello": {map[string]string{"etc/yum.repos.d/redhat.repo": repo, "etc/rhsm/ca/katello-server-ca.pem": ""},
			"https://cdn.example/content/9/x/baseos", files("1", "ROOT/etc/rhsm/ca/katello-server-ca.pem"), ""},
		"entitlement": {map[string]string{"etc/pki/entitlement/34e-key.pem": "", "etc/pki/entitlement/34e.pem": "", "etc/pki/entitlement/5-key.pem": ""},
			"https://cdn.example/x", entitled, ""},
		"entitlement beside repositories": {map[string]string{"etc/pki/entitlement/34e-key.pem": "", "etc/pki/entitlement/34e.pem": "", "etc/yum.repos.d/redhat.repo": repo},
			"https://cdn.example/x", entitled, ""},
		"container": {map[string]string{"run/.containerenv": "", "run/secrets/etc-pki-entitlement/1.pem": "", "run/secrets/etc-pki-entitlement/1-key.pem": "", "etc/pki/entitlement/2.pem": "", "etc/pki/entitlement/2-key.pem": ""},
			"https://cdn.example/x", tlsFiles{cert: "ROOT/run/secrets/etc-pki-entitlement/1.pem", key: "ROOT/run/secrets/etc-pki-entitlement/1-key.pem", ca: "ROOT/run/secrets/rhsm/ca/redhat-uep.pem"}, ""},
		"container's repositories": {map[string]string{"run/.containerenv": "", "run/secrets/redhat.repo": repo, "etc/yum.repos.d/redhat.repo": ""},
			"https://mirror.example/os", files("2", "/keys/ca.pem"), ""},
		"none":               {nil, "https://cdn.example/x", tlsFiles{}, "subscription-manager register"},
		"key without a cert": {map[string]string{"etc/pki/entitlement/5-key.pem": ""}, "https://cdn.example/x", tlsFiles{}, "subscription-manager register"},
		"no section":         {map[string]string{"etc/yum.repos.d/redhat.repo": "a = b\n"}, "https://cdn.example/x", tlsFiles{}, "in no section"},
		"no value":           {map[string]string{"etc/yum.repos.d/redhat.repo": "[a]\nb\n"}, "https://cdn.example/x", tlsFiles{}, `"b" has no value`},
	} {
		t.Run(name, func(t *testing.T) {
			root := hostWith(t, test.host)
			var got tlsFiles
			s, err := readSubscriptions(root)
			if err == nil {
				got, err = s.files(test.url)
			}
			for _, path := range []*string{&got.cert, &got.key, &got.ca} {
				*path = strings.Replace(*path, root, "ROOT", 1)
			}
			if got != test.want || (test.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %+v, %v; want %+v, %q", got, err, test.want, test.err)
			}
		})
	}
}

// TestCurlRHSM shows the server the certificate of its repository.
func TestCurlRHSM(t *testing.T) {
	var shown []bool
	w := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		shown = append(shown, len(r.TLS.PeerCertificates) > 0)
		_, _ = rw.Write([]byte(content))
	}))
	w.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	w.StartTLS()
	defer w.Close()
	setClientCertificate(t, w)
	root := hostWith(t, map[string]string{"etc/yum.repos.d/redhat.repo": "[r]\nbaseurl = " + w.URL + "/$arch/\nsslclientkey = " + os.Getenv(envKey) +
		"\nsslclientcert = " + os.Getenv(envCert) + "\nsslcacert = " + os.Getenv(envCA) + "\n"})
	for _, test := range []struct{ name, path, err string }{
		{"of a repository", "/x86_64/file", ""},
		{"of no repository", "/file", "secrets of org.osbuild.rhsm: no subscription"},
		{"broken key", "/x86_64/file", "load the client's certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "broken key" {
				if err := os.WriteFile(os.Getenv(envKey), []byte("no key, but a secret"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cache, tmp := t.TempDir(), t.TempDir()
			raw, err := json.Marshal(map[string]any{"url": w.URL + test.path, "secrets": map[string]string{"name": rhsmSecrets}})
			if err != nil {
				t.Fatal(err)
			}
			dl := &downloader{
				Download: &module.Download{Items: map[string]json.RawMessage{sha(content): raw}, Cache: cache, Tmp: tmp},
				stall:    time.Second, backoff: time.Millisecond, clients: clients{root: root},
			}
			defer dl.closeIdle()
			results, err := dl.all(t.Context(), func(any) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Success != (test.err == "") || !strings.Contains(r.Error, test.err) || strings.Contains(r.Error, "but a secret") {
				t.Errorf("%+v, want %q", r, test.err)
			}
		})
	}
	if !reflect.DeepEqual(shown, []bool{true}) {
		t.Errorf("the certificate was shown: %v", shown)
	}
}

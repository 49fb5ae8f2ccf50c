package sources

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ossify/ossify/module"
)

// fetchOne downloads one item in this process, with short pauses.
func fetchOne(t testing.TB, dir, key string, item any) (module.ItemResult, map[string]any) {
	t.Helper()
	results, last := fetchAll(t, dir, map[string]any{key: item})
	return results[0], last
}

func fetchAll(t testing.TB, dir string, items map[string]any) ([]module.ItemResult, map[string]any) {
	t.Helper()
	d := &module.Download{Items: map[string]json.RawMessage{}, Cache: dir, Tmp: filepath.Join(dir, ".partial")}
	if err := os.MkdirAll(d.Tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	for key, item := range items {
		raw, err := json.Marshal(item)
		if err != nil {
			t.Fatal(err)
		}
		d.Items[key] = raw
	}
	dl := &downloader{Download: d, stall: 500 * time.Millisecond, backoff: time.Millisecond}
	defer dl.closeIdle()
	var last map[string]any
	results, err := dl.all(t.Context(), func(v any) error { last = v.(map[string]any); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return results, last
}

// web is a server whose paths are tricks; it counts requests by path.
type web struct {
	*httptest.Server
	mu    sync.Mutex
	count map[string]int
}

func (w *web) requests(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[path]
}

const content = "the content of the file"

func newWeb(t testing.TB, secure bool) *web {
	w := &web{count: map[string]int{}}
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.count[r.URL.Path]++
		n := w.count[r.URL.Path]
		w.mu.Unlock()
		dir, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
		switch dir {
		case "ok":
			http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(content))
		case "agent":
			io.WriteString(rw, r.UserAgent())
		case "path":
			io.WriteString(rw, r.URL.EscapedPath())
		case "chunked":
			rw.(http.Flusher).Flush()
			io.WriteString(rw, content)
		case "status": // always that status
			var code int
			fmt.Sscan(arg, &code)
			http.Error(rw, "no", code)
		case "flaky": // that status twice
			var code int
			fmt.Sscan(arg, &code)
			if n <= 2 {
				http.Error(rw, "no", code)
				return
			}
			io.WriteString(rw, content)
		case "cut": // ends early, then goes on, if the client remembers what it has
			rw.Header().Set("ETag", `"v1"`)
			if n == 1 {
				rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
				io.WriteString(rw, content[:10])
				return
			}
			if r.Header.Get("Range") != "bytes=10-" || r.Header.Get("If-Range") != `"v1"` {
				http.Error(rw, "not resumed", http.StatusTeapot)
				return
			}
			http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(content))
		case "stall":
			if n == 1 {
				rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
				io.WriteString(rw, content[:3])
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(content))
		case "norange":
			io.WriteString(rw, content)
		case "badrange":
			if r.Header.Get("Range") != "" {
				rw.Header().Set("Content-Range", "bytes 1-2/3")
				rw.WriteHeader(http.StatusPartialContent)
			}
			io.WriteString(rw, content)
		case "to": // redirect
			rw.Header().Set("Location", r.URL.Query().Get("to"))
			rw.WriteHeader(http.StatusFound)
		case "password":
			user, password, _ := r.BasicAuth()
			io.WriteString(rw, user+":"+password)
		}
	})
	if secure {
		w.Server = httptest.NewUnstartedServer(handler)
		w.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
		w.StartTLS()
	} else {
		w.Server = httptest.NewServer(handler)
	}
	t.Cleanup(w.Close)
	return w
}

func TestCurl(t *testing.T) {
	plain, secure := newWeb(t, false), newWeb(t, true)
	down := httptest.NewServer(nil)
	down.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a b"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	host := strings.TrimPrefix(plain.URL, "http://127.0.0.1")
	for _, c := range []struct {
		name string
		item any
		// want is the content; err are parts of the error.
		want string
		err  []string
		// path of the plain server and how often it is asked for.
		path string
		n    int
	}{
		{name: "url", item: plain.URL + "/ok/url", want: content, path: "/ok/url", n: 1},
		{name: "object", item: object{"url": plain.URL + "/ok/2", "size": len(content)}, want: content},
		{name: "user agent", item: plain.URL + "/agent", want: "ossify"},
		{name: "plus and space", item: plain.URL + "/path/a+b%20c d", want: "/path/a%2Bb%20c%20d"},
		{name: "no length", item: object{"url": plain.URL + "/chunked", "size": len(content)}, want: content},
		{name: "404", item: plain.URL + "/status/404", err: []string{plain.URL + "/status/404: HTTP status 404 Not Found"}, path: "/status/404", n: 1},
		{name: "403", item: plain.URL + "/status/403", err: []string{"HTTP status 403 Forbidden"}, path: "/status/403", n: 1},
		{name: "204", item: plain.URL + "/status/206", err: []string{"HTTP status 206"}, path: "/status/206", n: 1},
		{name: "500", item: plain.URL + "/status/500", err: []string{"HTTP status 500", "--mirror"}, path: "/status/500", n: 4},
		{name: "503 twice", item: plain.URL + "/flaky/503", want: content, path: "/flaky/503", n: 3},
		{name: "429 twice", item: plain.URL + "/flaky/429", want: content, path: "/flaky/429", n: 3},
		{name: "cut", item: plain.URL + "/cut", want: content, path: "/cut", n: 2},
		{name: "stall", item: plain.URL + "/stall", want: content, path: "/stall", n: 2},
		{name: "down", item: down.URL + "/x", err: []string{down.URL + "/x: connection refused; is the server up? give the manifest's item more \"mirrors\", or compose again with --mirror"}},
		{name: "mirror", item: object{"url": down.URL, "mirrors": []string{plain.URL + "/status/404", plain.URL + "/ok/m"}}, want: content},
		{name: "mirrors down", item: object{"url": down.URL, "mirrors": []string{plain.URL + "/status/410"}}, err: []string{"connection refused", "1 mirrors failed", "410 Gone"}, path: "/status/410", n: 1},
		{name: "too large", item: object{"url": plain.URL + "/ok/l", "size": 5}, err: []string{"larger than the 5 bytes", "nothing was stored"}, path: "/ok/l", n: 1},
		{name: "too large, no length", item: object{"url": plain.URL + "/chunked", "size": 5}, err: []string{"larger than the 5 bytes"}},
		{name: "redirect", item: plain.URL + "/to?to=/ok/r", want: content},
		{name: "to file", item: plain.URL + "/to?to=file:///etc/passwd", err: []string{"redirect from http to file:///etc/passwd is refused"}},
		{name: "to https", item: object{"url": plain.URL + "/to?to=" + secure.URL + "/ok/", "insecure": true}, want: content},
		{name: "from https", item: object{"url": secure.URL + "/to?to=" + plain.URL + "/ok/s", "insecure": true}, err: []string{"redirect from https to http"}, path: "/ok/s", n: 0},
		{name: "loop", item: plain.URL + "/to?to=/to%3Fto=", err: []string{"/to"}},
		{name: "password", item: "http://me:secret@127.0.0.1" + host + "/password", want: "me:secret"},
		{name: "password elsewhere", item: "http://me:secret@127.0.0.1" + host + "/to?to=http://localhost" + host + "/password", want: ":"},
		{name: "password in error", item: "http://me:secret@127.0.0.1" + host + "/status/404", err: []string{"http://me:xxxxx@"}},
		{name: "untrusted", item: secure.URL + "/ok/", err: []string{"signed by unknown authority", "insecure"}},
		{name: "insecure", item: object{"url": secure.URL + "/ok/", "insecure": true}, want: content},
		{name: "file", item: "file://" + dir + "/a%20b", want: content},
		{name: "no file", item: "file://" + dir + "/c", err: []string{"no such file"}},
		{name: "folder", item: "file://" + dir, err: []string{"not a regular file"}},
		{name: "large file", item: object{"url": "file://" + dir + "/a%20b", "size": 5}, err: []string{"larger than the 5 bytes"}},
		{name: "ftp", item: "ftp://localhost/x", err: []string{"only http://HOST/PATH"}},
		{name: "no url", item: "http://%zz/", err: []string{"is no URL"}},
		{name: "unknown secrets", item: object{"url": plain.URL, "secrets": object{"name": "org.osbuild.moon"}}, err: []string{"secrets of org.osbuild.moon", rhsmSecrets, mtlsSecrets}},
		{name: "mtls without", item: object{"url": plain.URL, "secrets": object{"name": mtlsSecrets}}, err: []string{"set " + envCert + " and " + envKey}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, cache := c.want, t.TempDir()
			if len(c.err) > 0 {
				want = content
			}
			r, last := fetchOne(t, cache, sha(want), c.item)
			got := cacheLines(t, cache)
			if len(c.err) == 0 {
				if !r.Success || !reflect.DeepEqual(got, map[string]string{sha(want): want}) {
					t.Errorf("%+v, cache: %q", r, got)
				}
				if n := int64(len(want)); last["done"] != n || last["total"] != n || last["items-done"] != int64(1) || last["items-total"] != 1 {
					t.Errorf("progress at the end: %v", last)
				}
			}
			for _, part := range c.err {
				if r.Success || !strings.Contains(r.Error, part) || strings.Contains(r.Error, "secret@") {
					t.Errorf("error is %q, want %q in it", r.Error, part)
				}
			}
			if len(c.err) > 0 && len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
			if c.path != "" && plain.requests(c.path) != c.n {
				t.Errorf("%d requests for %s, want %d", plain.requests(c.path), c.path, c.n)
			}
		})
	}
}

func TestCurlMismatch(t *testing.T) {
	w, cache := newWeb(t, false), t.TempDir()
	r, _ := fetchOne(t, cache, sha("other"), w.URL+"/ok/")
	want := fmt.Sprintf("checksum mismatch for %s/ok/: expected %s, got %s, %d bytes; nothing was stored", w.URL, sha("other"), sha(content), len(content))
	if r.Error != want || len(cacheLines(t, cache)) != 0 || w.requests("/ok/") != 1 {
		t.Errorf("error %q, %d requests, cache %v", r.Error, w.requests("/ok/"), cacheLines(t, cache))
	}
}

// TestCurlResume goes on with what an earlier process left.
func TestCurlResume(t *testing.T) {
	for _, c := range []struct {
		name, left, path string
		requests         int
		err              string
	}{
		{"good start", content[:7], "/ok/", 1, ""},
		{"wrong start", "garbage", "/ok/", 2, ""},
		{"all there", content, "/ok/", 1, ""}, // status 416
		{"more than all", content + "x", "/ok/", 2, ""},
		{"no ranges", content[:7], "/norange/", 1, ""},
		{"another range", content[:7], "/badrange/", 2, ""},
		{"gone", content[:7], "/status/404", 1, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, cache := newWeb(t, false), t.TempDir()
			left := filepath.Join(cache, ".partial", sha(content))
			if err := errors.Join(os.Mkdir(filepath.Dir(left), 0o755), os.WriteFile(left, []byte(c.left), 0o644)); err != nil {
				t.Fatal(err)
			}
			r, _ := fetchOne(t, cache, sha(content), w.URL+c.path)
			want := map[string]string{sha(content): content}
			if c.err != "" {
				want = map[string]string{".partial/" + sha(content): c.left} // for the next try
			}
			if got := cacheLines(t, cache); r.Success != (c.err == "") || !strings.Contains(r.Error, c.err) || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, cache: %q", r, got)
			}
			if n := w.requests(c.path); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}

// TestCurlSizeResume asks no server if what there is has the stated size.
func TestCurlSizeResume(t *testing.T) {
	w, cache := newWeb(t, false), t.TempDir()
	left := filepath.Join(cache, ".partial", sha(content))
	if err := errors.Join(os.Mkdir(filepath.Dir(left), 0o755), os.WriteFile(left, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	r, _ := fetchOne(t, cache, sha(content), map[string]any{"url": w.URL + "/ok/", "size": len(content)})
	if !r.Success || w.requests("/ok/") != 0 {
		t.Errorf("%+v, %d requests", r, w.requests("/ok/"))
	}
}

// TestCurlParallel needs as many requests at a time as there are workers, and
// sees no more.
func TestCurlParallel(t *testing.T) {
	var now, most atomic.Int64
	full := make(chan struct{})
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == parallel {
			close(full)
		}
		select {
		case <-full:
		case <-r.Context().Done():
		}
		io.WriteString(rw, r.URL.Path)
	}))
	defer w.Close()
	items := map[string]any{}
	for i := range parallel {
		path := fmt.Sprintf("/%d", i)
		items[sha(path)] = w.URL + path
	}
	results, _ := fetchAll(t, t.TempDir(), items)
	for _, r := range results {
		if !r.Success {
			t.Errorf("%+v", r)
		}
	}
	if most.Load() != parallel {
		t.Errorf("%d requests at a time, want %d", most.Load(), parallel)
	}
}

// TestCurlOnce lets processes want the same file: it is downloaded once.
func TestCurlOnce(t *testing.T) {
	w, cache := newWeb(t, false), t.TempDir()
	var wg sync.WaitGroup
	var fresh, signals atomic.Int64
	for range 3 {
		s := start(t, "org.osbuild.curl")
		wg.Go(func() {
			reply, n, err := download(s, cache, map[string]any{sha(content): w.URL + "/ok/"})
			if err != nil || !reply.Success {
				t.Errorf("%+v, %v", reply, err)
			} else if reply.Results[0].Metadata["cached"] == false {
				fresh.Add(1)
			}
			signals.Add(int64(n))
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if w.requests("/ok/") != 1 || fresh.Load() != 1 || signals.Load() < 3 {
		t.Errorf("%d requests, %d fresh, %d signals", w.requests("/ok/"), fresh.Load(), signals.Load())
	}
}

// TestCurlMTLS shows the server a client's certificate; the authority is the
// environment's.
func TestCurlMTLS(t *testing.T) {
	w := newWeb(t, true)
	setClientCertificate(t, w.Server)
	item := map[string]any{"url": w.URL + "/ok/", "secrets": map[string]string{"name": mtlsSecrets}}
	if r, _ := fetchOne(t, t.TempDir(), sha(content), item); !r.Success {
		t.Errorf("%+v", r)
	}
	t.Setenv(envCA, os.Getenv(envKey))
	if r, _ := fetchOne(t, t.TempDir(), sha(content), item); !strings.Contains(r.Error, "holds no certificate") {
		t.Errorf("%+v", r)
	}
}

// TestSecrets has the files of the client from --secrets instead.
func TestSecrets(t *testing.T) {
	w := newWeb(t, true)
	setClientCertificate(t, w.Server)
	given := map[string]string{"sslclientcert": os.Getenv(envCert), "sslclientkey": os.Getenv(envKey), "sslcacert": os.Getenv(envCA)}
	for _, name := range []string{envCert, envKey, envCA} {
		t.Setenv(name, "")
	}
	items := map[string]any{sha(content): map[string]any{"url": w.URL + "/ok/", "secrets": map[string]string{"name": mtlsSecrets}}}
	call := func(source string, secrets any) (reply module.SourceResult, err error) {
		s := start(t, source)
		defer s.Close()
		args := map[string]any{"items": items, "options": map[string]any{}, "cache": t.TempDir(), "output": nil, "checksums": []string{}, "secrets": secrets}
		err = s.Call("download", args, &reply, nil)
		return reply, err
	}
	if reply, err := call("org.osbuild.curl", given); err != nil || !reply.Success {
		t.Errorf("%+v, %v", reply, err)
	}
	for _, secrets := range []any{map[string]string{"sslclientcert": "/x", "password": "hunter2"}, "hunter2", map[string]string{}} {
		if _, err := call("org.osbuild.curl", secrets); err == nil || !strings.Contains(err.Error(), "sslclientcert and sslclientkey") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v", secrets, err)
		}
	}
	if _, err := call("org.osbuild.inline", given); err == nil || !strings.Contains(err.Error(), "takes none") {
		t.Errorf("inline: %v", err)
	}
}

// TestCurlProxy asks the proxy of the environment.
func TestCurlProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, r.URL.String())
	}))
	defer proxy.Close()
	t.Setenv(envProxy, proxy.URL)
	if r, _ := fetchOne(t, t.TempDir(), sha("http://far.invalid/x"), "http://far.invalid/x"); !r.Success {
		t.Errorf("%+v", r)
	}
	t.Setenv(envProxy, "none")
	if r, _ := fetchOne(t, t.TempDir(), sha(""), "http://far.invalid/x"); !strings.Contains(r.Error, envProxy) {
		t.Errorf("%+v", r)
	}
}

// FuzzHeaders parses what servers and manifests say.
func FuzzHeaders(f *testing.F) {
	f.Add("bytes 5-9/10", sha(""))
	f.Add("bytes */10", "md5:x")
	f.Fuzz(func(t *testing.T, header, key string) {
		if n, ok := rangeStart(header); ok && (n < 0 || !strings.HasPrefix(header, "bytes ")) {
			t.Errorf("%q starts at %d", header, n)
		}
		if c, err := parseChecksum(key); err == nil && (c.text != key || filepath.Base(key) != key || len(key) > 135) {
			t.Errorf("%q is taken for a checksum", key)
		}
	})
}

// FuzzItems decodes items of manifests, and follows redirects: nothing but files and the web is
// asked, and a password is not shown.
func FuzzItems(f *testing.F) {
	for _, item := range []string{
		`"http://h/p"`, `{"url": "https://u:p@[::1]:8/a+b%20c?q#f", "mirrors": ["file:///etc/x", "file://localhost/x"]}`, `{"url": "http:///x"}`, `"file:x"`, `"FILE:///x"`,
		`{"url": "ftp://h/", "size": -1}`, `"http://h/%zz"`, `"//h/p"`, `"http://h@g/\u0000"`, `{"url": "http://a", "mirrors": [null]}`, `{"secrets": {"name": 7}}`, `null`, `[]`,
	} {
		f.Add([]byte(item), "http://h/")
	}
	f.Add([]byte(`"https://h/"`), "http://h/")
	f.Fuzz(func(t *testing.T, data []byte, to string) {
		var item curlItem
		if json.Unmarshal(data, &item) != nil {
			return
		}
		urls, err := item.urls()
		if err != nil {
			return
		}
		for _, u := range urls {
			switch u.Scheme {
			case "http", "https":
				if u.Host == "" || strings.ContainsAny(u.Host, "/\r\n\x00") {
					t.Errorf("%q: host %q", data, u.Host)
				}
			case "file":
				if !strings.HasPrefix(u.Path, "/") {
					t.Errorf("%q: the file %q", data, u.Path)
				}
			default:
				t.Errorf("%q: scheme %q", data, u.Scheme)
			}
			if again, err := url.Parse(u.String()); err != nil || again.Host != u.Host || again.Path != u.Path || strings.Contains(again.EscapedPath(), "+") {
				t.Errorf("%q: %s becomes %v, %v", data, u, again, err)
			}
			target, err := u.Parse(to)
			if err != nil {
				continue
			}
			from, next := &http.Request{URL: u, Header: http.Header{}}, &http.Request{URL: target, Header: http.Header{"Referer": {"x"}}}
			if err := checkRedirect(next, []*http.Request{from}); err == nil && (target.Scheme != u.Scheme && target.Scheme != "https" || next.Header.Get("Referer") != "") {
				t.Errorf("a redirect from %s to %s", u, target)
			}
		}
	})
}

// BenchmarkCurl downloads 150 files of 100 kB, as many as a small system has
// packages.
func BenchmarkCurl(b *testing.B) {
	body := strings.Repeat("x", 100<<10)
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, r.URL.Path+body)
	}))
	defer w.Close()
	items := map[string]any{}
	for i := range 150 {
		path := fmt.Sprintf("/%d", i)
		items[sha(path+body)] = w.URL + path
	}
	for b.Loop() {
		results, _ := fetchAll(b, b.TempDir(), items)
		for _, r := range results {
			if !r.Success {
				b.Fatal(r.Error)
			}
		}
	}
}

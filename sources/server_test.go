package sources

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

// TestServerIsGivenUp: a mirror that does not work is not asked for each file.
func TestServerIsGivenUp(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"status": func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", http.StatusServiceUnavailable) },
		"silence": func(rw http.ResponseWriter, _ *http.Request) {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				handler(rw, r)
			}))
			defer w.Close()
			good := newWeb(t, false)
			items := map[string]any{}
			for i := range 10 * parallel {
				path := fmt.Sprintf("/path/%d", i)
				items[sha(path)] = map[string]any{"url": w.URL + path, "mirrors": []string{good.URL + path}}
			}
			alone := map[string]any{}
			for i := range 10 * parallel {
				alone[sha(fmt.Sprint(i))] = fmt.Sprintf("%s/%d", w.URL, i)
			}
			results, _ := fetchAll(t, t.TempDir(), alone)
			notTried := 0
			for _, r := range results {
				if r.Success || !strings.Contains(r.Error, w.URL) {
					t.Errorf("%+v", r)
				}
				if strings.Contains(r.Error, "not tried, as the server failed before: "+w.URL) {
					notTried++
				}
			}
			// Only what was on its way when the first one failed for good is tried.
			// net/http itself repeats a request whose old connection was closed.
			if n := requests.Load(); notTried < 9*parallel || notTried >= 10*parallel || n > 2*parallel*(1+retries) {
				t.Errorf("%d requests, %d items not tried", n, notTried)
			}
			results, _ = fetchAll(t, t.TempDir(), items)
			for _, r := range results {
				if !r.Success {
					t.Errorf("with a good mirror: %+v", r)
				}
			}
		})
	}
}

// TestSlowButSteady: tries are not counted as long as more of the file comes.
func TestSlowButSteady(t *testing.T) {
	for name, step := range map[string]int{"gets on": 2, "does not": 0} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				start := 0
				if header := r.Header.Get("Range"); header != "" {
					if _, err := fmt.Sscanf(header, "bytes=%d-", &start); err != nil {
						t.Error(err)
					}
					rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(content)-1, len(content)))
				}
				rw.Header().Set("Content-Length", fmt.Sprint(len(content)-start))
				if start > 0 {
					rw.WriteHeader(http.StatusPartialContent)
				}
				io.WriteString(rw, content[start:min(start+step, len(content))])
			}))
			defer w.Close()
			r, _ := fetchOne(t, t.TempDir(), sha(content), w.URL)
			if want := step > 0; r.Success != want {
				t.Errorf("%+v", r)
			}
			if want := int64(1 + retries); step == 0 && requests.Load() != want {
				t.Errorf("%d requests, want %d", requests.Load(), want)
			}
		})
	}
}

// TestKilled kills the process in the middle and lets another go on.
func TestKilled(t *testing.T) {
	var ranges []string
	var mu sync.Mutex
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		first := len(ranges) == 1
		mu.Unlock()
		if first {
			rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
			io.WriteString(rw, content[:10])
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(content))
	}))
	defer w.Close()
	path := filepath.Join(t.TempDir(), "org.osbuild.curl")
	if err := os.Symlink(sandbox.Program(), path); err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(t.Context())
	s, err := sandbox.StartService(ctx, path, "", t.TempDir(), "org.osbuild.curl")
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	call := map[string]any{"items": map[string]string{sha(content): w.URL}, "cache": cache}
	err = s.Call("download", call, nil, func(signal json.RawMessage) {
		var p struct{ Done int }
		if err := json.Unmarshal(signal, &p); err != nil {
			t.Error(err)
		}
		if p.Done == 10 {
			kill()
		}
	})
	if err == nil {
		t.Error("the killed source replied")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got, want := cacheLines(t, cache), map[string]string{"org.osbuild.files/.partial/" + sha(content): content[:10]}; !reflect.DeepEqual(got, want) {
		t.Fatalf("left: %q, want %q", got, want)
	}
	s = start(t, "org.osbuild.curl")
	reply, _, err := download(s, cache, map[string]any{sha(content): w.URL})
	if err != nil || !reply.Success {
		t.Errorf("%+v, %v", reply, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if want := []string{"", "bytes=10-"}; !reflect.DeepEqual(ranges, want) {
		t.Errorf("asked for %q, want %q", ranges, want)
	}
	if got, want := cacheLines(t, cache), map[string]string{"org.osbuild.files/" + sha(content): content}; !reflect.DeepEqual(got, want) {
		t.Errorf("cache: %q, want %q", got, want)
	}
}

// TestRedirectsTellNothing: a server that is redirected to learns neither who
// we are nor where we come from.
func TestRedirectsTellNothing(t *testing.T) {
	var certificates, referers []string
	serve := func(name string, next *string) *httptest.Server {
		w := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				certificates = append(certificates, name)
			}
			if referer := r.Header.Get("Referer"); referer != "" {
				referers = append(referers, referer)
			}
			if next != nil {
				http.Redirect(rw, r, *next, http.StatusFound)
				return
			}
			io.WriteString(rw, content)
		}))
		w.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		w.StartTLS()
		t.Cleanup(w.Close)
		return w
	}
	elsewhere := serve("elsewhere", nil)
	named := serve("named", &elsewhere.URL)
	setClientCertificate(t, named)
	item := map[string]any{"url": named.URL + "/?token=secret", "secrets": map[string]string{"name": mtlsSecrets}}
	if r, _ := fetchOne(t, t.TempDir(), sha(content), item); !r.Success {
		t.Fatalf("%+v", r)
	}
	if !reflect.DeepEqual(certificates, []string{"named"}) || len(referers) != 0 {
		t.Errorf("certificates were shown to %q, referers were %q", certificates, referers)
	}
}

// setClientCertificate makes the server's own certificate the client's, too,
// and its authority.
func setClientCertificate(t *testing.T, w *httptest.Server) {
	t.Helper()
	dir, pair := t.TempDir(), w.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for env, block := range map[string]*pem.Block{
		envCert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		envCA:   {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		envKey:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		path := filepath.Join(dir, env)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(env, path)
	}
}

// TestBrokenCache fetches a file anew that has lost its end since.
func TestBrokenCache(t *testing.T) {
	w, cache := newWeb(t, false), t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, sha(content)), []byte(content[:5]), 0o644); err != nil {
		t.Fatal(err)
	}
	r, _ := fetchOne(t, cache, sha(content), map[string]any{"url": w.URL + "/ok/", "size": len(content)})
	want := map[string]string{sha(content): content}
	if got := cacheLines(t, cache); !r.Success || r.Metadata["cached"] != false || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, cache: %q", r, got)
	}
}

func TestSweepPartials(t *testing.T) {
	dir, since := t.TempDir(), time.Unix(1000, 0)
	for name, age := range map[string]int64{"old": 999, "held": 999, "new": 1001} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(age, 0)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(filepath.Join(dir, "held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := sweepPartials(dir, since); err != nil {
		t.Fatal(err)
	}
	if got, want := cacheLines(t, dir), map[string]string{"held": "", "new": ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("left: %q", got)
	}
}

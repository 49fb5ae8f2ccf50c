package sources

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestCurlTenths has the network end at each tenth of a file, in each way, and come back, or not.
func TestCurlTenths(t *testing.T) {
	whole := make([]byte, 1_000_003)
	random := rand.NewChaCha8([32]byte{})
	random.Read(whole)
	badStart, badEnd := bytes.Clone(whole), bytes.Clone(whole)
	badStart[0] ^= 1
	badEnd[len(badEnd)-1] ^= 1
	for _, c := range []struct {
		name string
		// end is how the first answer ends after its part.
		end func(http.ResponseWriter, *http.Request)
		// first is what the first answer is a part of, rest is what the others give.
		first []byte
		rest  http.HandlerFunc
		// err is that of this download if it fails; another one with a good server follows.
		err string
	}{
		{name: "cut", end: hangUp, first: whole},
		{name: "stalled", end: stall, first: whole},
		{name: "cut, wrong bytes", end: hangUp, first: badStart},
		{name: "cut, no ranges", end: hangUp, first: whole, rest: func(rw http.ResponseWriter, _ *http.Request) { rw.Write(whole) }},
		{name: "cut, then gone", end: hangUp, first: whole, rest: http.NotFound, err: "HTTP status 404"},
		{name: "cut, then dead", end: hangUp, first: whole, rest: hangUp, err: "EOF"},
		{name: "cut, wrong bytes, then dead", end: hangUp, first: badStart, rest: hangUp, err: "EOF"},
		{name: "cut, then another file", end: hangUp, first: whole, rest: serve(badEnd), err: "checksum mismatch"},
	} {
		for tenth := range 11 {
			t.Run(fmt.Sprintf("%s/%d", c.name, tenth), func(t *testing.T) {
				t.Parallel()
				var n atomic.Int64
				var good atomic.Bool
				server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					switch {
					case good.Load() || n.Add(1) > 1 && c.rest == nil:
						serve(whole)(rw, r)
					case n.Load() > 1:
						c.rest(rw, r)
					default:
						rw.Header().Set("Content-Length", fmt.Sprint(len(whole)))
						rw.Write(c.first[:len(whole)*tenth/10])
						rw.(http.Flusher).Flush()
						if tenth < 10 {
							c.end(rw, r)
						}
					}
				}))
				defer server.Close()
				cache := t.TempDir()
				r, _ := fetchOne(t, cache, sha(string(whole)), server.URL)
				// What came whole needs nothing more, whatever becomes of the server.
				want, fails := c.err, c.err != ""
				if tenth == 10 {
					want, fails = "checksum mismatch", &c.first[0] != &whole[0]
				}
				if r.Success == fails || fails && !strings.Contains(r.Error, want) {
					t.Fatalf("%+v", r)
				}
				if _, err := os.Stat(filepath.Join(cache, sha(string(whole)))); (err != nil) != fails {
					t.Fatalf("the file has its name: %v", err)
				}
				good.Store(true)
				if r, _ := fetchOne(t, cache, sha(string(whole)), server.URL); !r.Success {
					t.Errorf("afterwards: %+v", r)
				}
				if got := cacheLines(t, cache); !reflect.DeepEqual(got, map[string]string{sha(string(whole)): string(whole)}) {
					t.Errorf("%d files in the cache", len(got))
				}
			})
		}
	}
}

func serve(content []byte) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// hangUp ends the connection.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// stall sends nothing until the client has had enough.
func stall(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

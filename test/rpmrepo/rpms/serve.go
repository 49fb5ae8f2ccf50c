package rpms

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Serve serves a directory on the loopback interface until the test ends.
func Serve(t testing.TB, dir string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(s.Close)
	return s
}

package test

import (
	"net/http/httptest"
	"strings"

	"github.com/ossify/ossify/test/registry"
	"github.com/rogpeppe/go-internal/testscript"
)

// startRegistry is "registry DIRECTORY [USER PASSWORD]": $CACHE becomes a repository of a registry that has
// its content there.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 && len(args) != 3 {
		ts.Fatalf("usage: registry DIRECTORY [USER PASSWORD]")
	}
	args = append(args, "", "")
	h, err := registry.Handler(ts.MkAbs(args[0]), args[1], args[2])
	ts.Check(err)
	server := httptest.NewServer(h)
	ts.Defer(server.Close)
	ts.Setenv("CACHE", strings.TrimPrefix(server.URL, "http://")+"/team/cache")
}

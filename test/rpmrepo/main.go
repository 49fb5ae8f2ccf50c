// Command rpmrepo makes the RPM repository of the tests in a directory:
//
//	go run ./test/rpmrepo DIR
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ossify/ossify/test/rpmrepo/rpms"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rpmrepo DIR")
		os.Exit(2)
	}
	cached, err := rpms.Cached(context.Background())
	if err == nil {
		err = os.CopyFS(os.Args[1], os.DirFS(cached))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rpmrepo:", err)
		os.Exit(1)
	}
}

// Package namespace runs tests where the engine and its stages run.
package namespace

import (
	"fmt"
	"os"
	"testing"

	"github.com/ossify/ossify/sandbox"
	"go.podman.io/storage/pkg/reexec"
)

// Main is for a TestMain: it runs the tests as root of a user namespace, with
// mounts of their own, after prepare. It does not return.
func Main(m *testing.M, prepare func() error) {
	if sandbox.IsContainerInit() {
		sandbox.ContainerInit()
	}
	if sandbox.IsConfined() {
		sandbox.Confine()
	}
	if reexec.Init() {
		os.Exit(0)
	}
	err := sandbox.EnterNamespace()
	if err == nil {
		err = prepare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

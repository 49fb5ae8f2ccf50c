package doctor

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain is what Run tries things with, if it was started for that.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "hang" {
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// TestLimit runs all checks where no try ends.
func TestLimit(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	checks := Run(context.Background(), Options{
		Store: filepath.Join(t.TempDir(), "store"), Helper: filepath.Join(t.TempDir(), "none"),
		Try: []string{self, "hang"}, Limit: time.Second,
	})
	for _, c := range checks {
		if c.Name == buildNamespace && c.State != Missing {
			t.Errorf("%+v", c)
		}
		if (c.State == OK) != (c.Fix == "" && c.Lost == "" && !c.follows) || c.Found == "" {
			t.Errorf("%+v", c)
		}
	}
	if Worst(checks) != Missing {
		t.Errorf("%+v", checks)
	}
}

func TestWorst(t *testing.T) {
	for _, c := range []struct {
		states []State
		want   State
	}{
		{nil, OK},
		{[]State{OK, OK}, OK},
		{[]State{OK, Degraded, OK}, Degraded},
		{[]State{Missing, Degraded}, Missing},
		{[]State{Degraded, Missing, OK}, Missing},
	} {
		var checks []Check
		for _, s := range c.states {
			checks = append(checks, Check{State: s})
		}
		if got := Worst(checks); got != c.want {
			t.Errorf("%v: %s, want %s", c.states, got, c.want)
		}
	}
}

func TestKernel(t *testing.T) {
	for name, want := range map[string]State{
		"6.1.0-13-amd64": OK, "5.13.0": OK, "5.14.0-503.el9.x86_64": OK, "10.0": OK,
		"5.12.19": "", "4.18.0-553.el8.x86_64": "", "5": "", "unknown": "",
	} {
		if got := release(name); got.State != want || want == "" && got.Fix == "" {
			t.Errorf("%s: %+v, want %q", name, got, want)
		}
	}
}

func TestLandlock(t *testing.T) {
	for _, c := range []struct {
		version int
		errno   syscall.Errno
		want    State
		found   string
	}{
		{7, 0, OK, "version 7 of its interface, with scopes"},
		{6, 0, OK, "version 6 of its interface, with scopes"},
		{5, 0, "", "version 5 of its interface, without scopes, which are of version 6"},
		{-1, syscall.EOPNOTSUPP, "", "the kernel has it, but it is off"},
		{-1, syscall.ENOSYS, "", "the kernel has none (function not implemented)"},
	} {
		if got := landlockVersion(c.version, c.errno); got.State != c.want || got.Found != c.found || c.want == "" && got.Fix == "" {
			t.Errorf("%d, %v: %+v", c.version, c.errno, got)
		}
	}
}

package doctor

import (
	"context"
	"os"
	"path/filepath"
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

// Package doctor finds out what of the things that ossify needs a machine has, what is lost
// without the others, and the command that brings them.
//
// It changes nothing and needs nothing that it looks for. What is not only read but tried, such as
// namespaces and mounts, is tried in processes of its own (Try), which may fail in any way; what does
// not answer is not waited for.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ossify/ossify/sandbox"
)

// State says what a check means for builds.
type State string

// States, from the best to the worst.
const (
	// OK is for what is there.
	OK State = "ok"
	// Degraded is for what only some builds need, or none.
	Degraded State = "degraded"
	// Missing is for what no build can do without.
	Missing State = "missing"
)

// Check is what was found out about one thing.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Found is how things are, in words.
	Found string `json:"found"`
	// Fix is the command that mends it, "" if it is OK or another check has the reason.
	Fix string `json:"fix,omitempty"`
	// Lost is what cannot be done without it, "" where Fix is.
	Lost string `json:"lost,omitempty"`
	// follows says that another check has what is wrong.
	follows bool
}

// Options say where things are.
type Options struct {
	// Store is the name of the store (store.Directory).
	Store string
	// Helper is the socket of ossify-loop.
	Helper string
	// Try is the command that calls Try; its arguments are added.
	Try []string
	// Limit is how long a check may take, 0 for ten seconds.
	Limit time.Duration
}

// subject is something to check. look may take for ever, and gives a State only where that is
// neither OK nor the subject's.
type subject struct {
	name  string
	state State
	lost  string
	look  func(context.Context) Check
}

// Run makes all checks, each within the limit.
func Run(ctx context.Context, o Options) []Check {
	if o.Limit == 0 {
		o.Limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	subjects := o.subjects()
	results := make([]chan Check, len(subjects))
	for i, s := range subjects {
		results[i] = make(chan Check, 1)
		go func() { results[i] <- s.look(ctx) }()
	}
	// What was asked to end shall have time to say so.
	late := time.After(o.Limit + time.Second)
	var checks []Check
	for i, s := range subjects {
		var c Check
		select {
		case c = <-results[i]:
		default:
			select {
			case c = <-results[i]:
			case <-late:
				late = closed()
				c = bad(fmt.Sprintf("no answer within %s", o.Limit), "sudo dmesg | tail # may tell what it waits for")
			}
		}
		switch {
		case c.State == OK:
		case s.name == buildNamespace && slices.ContainsFunc(checks, isMissing):
			c = follows("cannot be entered, for what is missing above")
		case s.name == containersCheck && isMissing(checks[i-1]):
			c = follows("not tried, as the build namespace cannot be entered")
		}
		checks = append(checks, s.complete(c))
	}
	return checks
}

func isMissing(c Check) bool { return c.State == Missing }

// closed is a channel of time that is over.
func closed() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

// complete adds what all results of a subject have in common.
func (s subject) complete(c Check) Check {
	c.Name = s.name
	if c.State == "" {
		c.State = s.state
	}
	if c.State == OK {
		c.Fix, c.Lost = "", ""
		return c
	}
	if c.follows {
		return c
	}
	if c.Lost == "" {
		c.Lost = s.lost
	}
	if os.Geteuid() == 0 && !sandbox.Inside() {
		c.Fix = strings.ReplaceAll(c.Fix, "sudo ", "")
	}
	return c
}

// Worst is the worst state of the checks.
func Worst(checks []Check) State {
	worst := OK
	for _, c := range checks {
		if c.State == Missing || worst == OK {
			worst = c.State
		}
	}
	return worst
}

// ok is the result of a check that finds what it looks for.
func ok(format string, args ...any) Check {
	return Check{State: OK, Found: fmt.Sprintf(format, args...)}
}

// bad is the result of one that does not.
func bad(found, fix string) Check { return Check{Found: found, Fix: fix} }

// follows is the result of one that another, which is bad too, has made impossible.
func follows(found string) Check { return Check{Found: found, follows: true} }

// lacking is the result for an error, which may be a *sandbox.Lack.
func lacking(err error) Check {
	if lack := (*sandbox.Lack)(nil); errors.As(err, &lack) {
		return bad(lack.What, lack.Fix)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return bad("no answer in time", "sudo dmesg | tail # may tell what it waits for")
	}
	return bad(err.Error(), "sudo dmesg | tail # may tell why")
}

const (
	noBuild = "every build"
	// buildNamespace is the name of the check that needs those before it, containersCheck of the one after it
	// that needs that.
	buildNamespace  = "build namespace"
	containersCheck = "containers"
)

func (o *Options) subjects() []subject {
	list := []subject{
		{"kernel", Missing, noBuild, kernel},
		{"user namespaces", Missing, noBuild, userNamespaces},
		{"subordinate ids", Missing, noBuild, subordinateIDs},
		{"newuidmap, newgidmap", Missing, noBuild, o.idTools},
		{buildNamespace, Missing, noBuild, o.buildNamespace},
		{containersCheck, Missing, noBuild, o.containers},
		{"overlay mounts", Missing, noBuild, o.overlayMounts},
		{"store", Missing, noBuild, o.storeDirectory},
		{"disk space", Degraded, "builds may end in the middle, for lack of space; what they have finished is kept", o.diskSpace},
		{"temporary files", Degraded, "programs that are started outside of stages, such as osbuild's own sources, may fail", temporaryFiles},
		{"seccomp", Missing, noBuild, o.seccomp},
		{"landlock", Degraded, "the second lock on signals and abstract sockets of stages; namespaces are the first", landlock},
		{"cgroups", Degraded, "", o.cgroups},
		{"/dev/fuse", Degraded, "programs of stages that mount with FUSE, such as fuse-overlayfs", fuse},
	}
	list = append(list, tools()...)
	return append(list, subject{"ossify-loop", Degraded,
		"kernel mounts of ext4, xfs and btrfs: manifests that fill disks through them, as image-builder's do", o.helper})
}

package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
)

type chronyOptions struct {
	Timeservers []string         `json:"timeservers"`
	Servers     []chronyServer   `json:"servers"`
	LeapSecTZ   *string          `json:"leapsectz"`
	Refclocks   []chronyRefclock `json:"refclocks"`
}

type chronyServer struct {
	Hostname string      `json:"hostname"`
	MinPoll  json.Number `json:"minpoll"`
	MaxPoll  json.Number `json:"maxpoll"`
	IBurst   *bool       `json:"iburst"`
	Prefer   bool        `json:"prefer"`
}

type chronyRefclock struct {
	Driver chronyDriver `json:"driver"`
	Poll   json.Number  `json:"poll"`
	DPoll  json.Number  `json:"dpoll"`
	Offset json.Number  `json:"offset"`
}

// chronyDriver is a driver of any kind; the schema says which has what.
type chronyDriver struct {
	Name      string      `json:"name"`
	Device    string      `json:"device"`
	Segment   json.Number `json:"segment"`
	Perm      string      `json:"perm"`
	Path      string      `json:"path"`
	NoCrossTS bool        `json:"nocrossts"`
	ExtPPS    bool        `json:"extpps"`
	Pin       json.Number `json:"pin"`
	Channel   json.Number `json:"channel"`
	Clear     bool        `json:"clear"`
}

// chrony sets the time sources in the tree's chrony.conf: new lines come first,
// each option's before those of the option before it.
func chrony(_ context.Context, args *module.Args, options chronyOptions) error {
	path, err := treeTarget(args, "/etc/chrony.conf")
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configure chrony: %w", err)
	}
	lines := withoutDirectives(strings.Split(pythonLines(old), "\n"), "server", "pool", "peer")
	if options.LeapSecTZ != nil {
		lines = withoutDirectives(lines, "leapsectz")
	}
	var text []string
	for _, clock := range options.Refclocks {
		text = append(text, clock.line())
	}
	if options.LeapSecTZ != nil && *options.LeapSecTZ != "" {
		text = append(text, "leapsectz "+*options.LeapSecTZ)
	}
	for _, server := range options.Servers {
		text = append(text, server.line())
	}
	for _, name := range options.Timeservers {
		text = append(text, "server "+name+" iburst")
	}
	if err := os.WriteFile(path, []byte(strings.Join(append(text, lines...), "\n")), 0o644); err != nil {
		return fmt.Errorf("configure chrony: %w", err)
	}
	return nil
}

// withoutDirectives drops the lines that begin with one of the names and a space.
func withoutDirectives(lines []string, names ...string) []string {
	return slices.DeleteFunc(lines, func(line string) bool {
		name, _, ok := strings.Cut(line, " ")
		return ok && slices.Contains(names, name)
	})
}

func (s chronyServer) line() string {
	line := "server " + s.Hostname
	if s.Prefer {
		line += " prefer"
	}
	if s.IBurst == nil || *s.IBurst {
		line += " iburst"
	}
	return line + numberOption(" minpoll ", s.MinPoll) + numberOption(" maxpoll ", s.MaxPoll)
}

func (r chronyRefclock) line() string {
	return "refclock " + r.Driver.words() +
		numberOption(" poll ", r.Poll) + numberOption(" dpoll ", r.DPoll) + numberOption(" offset ", r.Offset)
}

// words are the driver's name, what it reads, and its options after a colon.
func (d chronyDriver) words() string {
	source := d.Path
	switch d.Name {
	case "PPS":
		source = d.Device
	case "SHM":
		source = pythonNumber(d.Segment)
	}
	var options []string
	add := func(set bool, option string) {
		if set {
			options = append(options, option)
		}
	}
	add(d.Perm != "", "perm="+d.Perm)
	add(d.NoCrossTS, "nocrossts")
	add(d.ExtPPS, "extpps")
	add(d.Pin != "", numberOption("pin=", d.Pin))
	add(d.Channel != "", numberOption("channel=", d.Channel))
	add(d.Clear, "clear")
	words := d.Name + " " + source
	if len(options) > 0 {
		words += ":" + strings.Join(options, ",")
	}
	return words
}

// numberOption is an option with its number, or "" if there is none.
func numberOption(name string, n json.Number) string {
	if n == "" {
		return ""
	}
	return name + pythonNumber(n)
}

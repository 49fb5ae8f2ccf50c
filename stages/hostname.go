package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type hostnameOptions struct {
	Hostname string `json:"hostname"`
}

// hostname writes /etc/hostname, as osbuild does with systemd-firstboot.
func hostname(_ context.Context, args *module.Args, options hostnameOptions) error {
	if err := checkHostname(options.Hostname); err != nil {
		return err
	}
	if err := replaceFile(args, "/etc/hostname", strings.TrimSuffix(options.Hostname, ".")+"\n"); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	return nil
}

// checkHostname has the rules of systemd 252's hostname_is_valid, with a dot
// at the end of a name of several labels allowed.
func checkHostname(name string) error {
	invalid := func(why string) error { return fmt.Errorf("hostname %q is not valid: %s", name, why) }
	if name == "" {
		return invalid("it is empty")
	}
	if len(name) > 64 {
		return invalid(fmt.Sprintf("it has %d characters, Linux takes 64", len(name)))
	}
	labels := strings.Split(name, ".")
	if len(labels) > 2 && labels[len(labels)-1] == "" {
		labels = labels[:len(labels)-1]
	}
	for _, label := range labels {
		if label == "" {
			return invalid("a dot must stand between two labels")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return invalid(fmt.Sprintf("label %q begins or ends with a hyphen", label))
		}
		for _, c := range label {
			if !isAlnum(c) && c != '-' {
				return invalid(fmt.Sprintf("%q is neither an ASCII letter, a digit, a hyphen nor a dot", c))
			}
		}
	}
	return nil
}

func isAlnum(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

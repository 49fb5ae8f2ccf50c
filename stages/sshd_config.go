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

type sshdConfigOptions struct {
	Config *struct {
		PasswordAuthentication          any         `json:"PasswordAuthentication"`
		ChallengeResponseAuthentication any         `json:"ChallengeResponseAuthentication"`
		ClientAliveInterval             json.Number `json:"ClientAliveInterval"`
		PermitRootLogin                 any         `json:"PermitRootLogin"`
	} `json:"config"`
}

// sshdKeyword is a keyword of sshd_config(5) to set.
type sshdKeyword struct {
	name, value string
	// rewrite is set if a line that has the value already is written anew too.
	rewrite bool
}

// sshdConfig sets keywords in the tree's sshd_config. The file becomes a new one
// of root with the old one's mode, even if it was a symbolic link.
func sshdConfig(_ context.Context, args *module.Args, options sshdConfigOptions) error {
	const path = "/etc/ssh/sshd_config"
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("configure sshd: %w", err)
	}
	old, err := os.ReadFile(target)
	if err != nil {
		return fmt.Errorf("configure sshd: %w", err)
	}
	if err := replaceFile(args, path, setKeywords(pythonLines(old), options.keywords())); err != nil {
		return fmt.Errorf("configure sshd: %w", err)
	}
	entry, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	return os.Chmod(entry, info.Mode())
}

// keywords are those that the options set, in the order in which missing ones
// are added to the file.
func (o sshdConfigOptions) keywords() []sshdKeyword {
	var out []sshdKeyword
	if o.Config == nil {
		return nil
	}
	add := func(name string, value any) {
		switch value := value.(type) {
		case bool:
			out = append(out, sshdKeyword{name: name, value: yesNo(value)})
		case string:
			out = append(out, sshdKeyword{name: name, value: value})
		}
	}
	add("PasswordAuthentication", o.Config.PasswordAuthentication)
	add("ChallengeResponseAuthentication", o.Config.ChallengeResponseAuthentication)
	if interval := o.Config.ClientAliveInterval; interval != "" {
		out = append(out, sshdKeyword{"ClientAliveInterval", pythonNumber(interval), true})
	}
	add("PermitRootLogin", o.Config.PermitRootLogin)
	return out
}

// setKeywords changes the first line of each keyword that has one value, and
// adds those that have no such line at the end. The case of a keyword's letters
// does not count, and stays.
func setKeywords(text string, keywords []sshdKeyword) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 {
			i := slices.IndexFunc(keywords, func(k sshdKeyword) bool { return strings.EqualFold(k.name, fields[0]) })
			if i >= 0 {
				k := keywords[i]
				keywords = slices.Delete(keywords, i, i+1)
				if k.rewrite || k.value != fields[1] {
					line = fields[0] + " " + k.value + "\n"
				}
			}
		}
		out.WriteString(line)
	}
	if len(keywords) > 0 && text != "" && !strings.HasSuffix(out.String(), "\n") {
		out.WriteByte('\n')
	}
	for _, k := range keywords {
		fmt.Fprintf(&out, "%s %s\n", k.name, k.value)
	}
	return out.String()
}

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ossify/ossify/doctor"
	"github.com/spf13/cobra"
)

func doctorCommand() *cobra.Command {
	var o storeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what this machine has of what builds need",
		Long: `Checks, and where it can tries, what builds, compose and boot use of this machine. Nothing is changed,
but that opening the store removes what killed builds have left. For each thing there is a line; where
it is not as it should be, the command that mends it and what is lost without it as well, unless that is
told of another:

  ok        it is there
  degraded  some builds or commands need it, or none but for more speed or safety
  missing   no build can do without it

The status is 1 if something is missing, else 0. With --json the output is an object with the worst
"state" and "checks", each with "name", "state", "found", and, where the table has them, "fix" and "lost".`,
		Args: arguments(0, 0, "no arguments are"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := doctor.Run(cmd.Context(), doctor.Options{Store: o.store, Helper: o.helper, Try: []string{"/proc/self/exe", "doctor", "try"}})
			var err error
			if asJSON {
				err = printJSON(os.Stdout, struct {
					State  doctor.State   `json:"state"`
					Checks []doctor.Check `json:"checks"`
				}{doctor.Worst(checks), checks})
			} else {
				err = showChecks(os.Stdout, checks)
			}
			if err == nil && doctor.Worst(checks) == doctor.Missing {
				return reportedError{exitFailed}
			}
			return err
		},
	}
	o.addStore(cmd)
	cmd.Flags().StringVar(&o.helper, "helper", defaultHelper(), "socket of ossify-loop, which makes kernel mounts for people without root")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(&cobra.Command{
		Use: "try", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return doctor.Try(args[0], args[1:]...) },
	})
	return cmd
}

// lineWidth is what the table of checks is made for, in columns.
const lineWidth = 100

func showChecks(to io.Writer, checks []doctor.Check) error {
	names := 0
	for _, c := range checks {
		names = max(names, len(c.Name))
	}
	const states = len(doctor.Degraded) + 2
	var out strings.Builder
	line := func(lead string, words []string, margin int, broken string) {
		for i, text := range wrap(words, lineWidth-margin-len(broken), broken) {
			if i > 0 {
				lead = ""
			}
			fmt.Fprintf(&out, "%-*s%s\n", margin, lead, text)
		}
	}
	bad := map[doctor.State][]string{}
	for _, c := range checks {
		lead := fmt.Sprintf("%-*s%-*s  ", states, c.State, names, c.Name)
		line(lead, strings.Fields(plain(c.Found, " ")), len(lead), "")
		if c.State == doctor.OK {
			continue
		}
		if c.Fix != "" { // else another check says what to do
			bad[c.State] = append(bad[c.State], c.Name)
		}
		const margin = states + len("lost: ")
		if c.Fix != "" {
			fix(line, fmt.Sprintf("%*sfix:", states, ""), plain(c.Fix, " "), margin)
		}
		if c.Lost != "" {
			line(fmt.Sprintf("%*slost:", states, ""), strings.Fields(c.Lost), margin, "")
		}
	}
	out.WriteByte('\n')
	verdict := "Ossify can build here"
	if names := bad[doctor.Missing]; len(names) > 0 {
		verdict = "Ossify cannot build here, for what is missing: " + strings.Join(names, "; ")
	}
	line("", strings.Fields(verdict+"."), 0, "")
	if names := bad[doctor.Degraded]; len(names) > 0 {
		line("", strings.Fields("Degraded: "+strings.Join(names, "; ")+"."), 0, "")
	}
	_, err := io.WriteString(to, out.String())
	return err
}

// fix prints a command so that it can be copied: what is more than a line ends with a backslash, or is a
// comment of its own.
func fix(line func(lead string, words []string, margin int, broken string), lead, command string, margin int) {
	command, comment, _ := strings.Cut(command, " # ")
	if comment != "" && margin+len(command)+len(" # ")+len(comment) <= lineWidth {
		command, comment = command+" # "+comment, ""
	}
	if words := strings.Fields(command); margin+len(command) <= lineWidth {
		line(lead, []string{command}, margin, "")
	} else {
		line(lead, words, margin, ` \`)
	}
	for _, text := range wrap(strings.Fields(comment), lineWidth-margin-len("# "), "") {
		if text != "" {
			line("", []string{"# " + text}, margin, "")
		}
	}
}

// wrap makes lines of words, of that width where they fit; broken ends all but the last.
func wrap(words []string, width int, broken string) []string {
	lines := []string{""}
	for _, w := range words {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = w
		case len(*last)+1+len(w) <= width:
			*last += " " + w
		default:
			*last += broken
			lines = append(lines, w)
		}
	}
	return lines
}

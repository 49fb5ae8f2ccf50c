package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/ossify/ossify/native"
	"github.com/spf13/cobra"
)

func modulesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "modules [PATTERN]",
		Short: "List the modules that ossify has itself",
		Long: `Lists the modules of this program, those whose name contains PATTERN if there is one: family,
name, the formats of manifests that its schema is for, how many test cases it has (accepted and
refused), and what it does.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("at most one pattern is needed, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return listModules(strings.Join(args, ""), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each module")
	return cmd
}

// moduleInfo is what is told of a module.
type moduleInfo struct {
	Class string `json:"class"`
	Name  string `json:"name"`
	// Formats of manifests that the schema is for.
	Formats []string `json:"formats"`
	Summary string   `json:"summary"`
	// Accepted and Refused count test cases.
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
}

func listModules(pattern string, asJSON bool) error {
	all, err := moduleInfos()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	found := false
	if !asJSON {
		fmt.Fprintln(table, "FAMILY\tNAME\tFORMATS\tCASES\tSUMMARY")
	}
	for _, m := range all {
		if !strings.Contains(m.Name, pattern) {
			continue
		}
		found = true
		if asJSON {
			err = enc.Encode(m)
		} else {
			cases := fmt.Sprintf("%d+%d", m.Accepted, m.Refused)
			if m.Accepted+m.Refused == 0 {
				cases = "-" // a runner has no options
			}
			_, err = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", strings.ToLower(m.Class), m.Name, strings.Join(m.Formats, ","), cases, m.Summary)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return usageError{fmt.Errorf("no module of ossify has %q in its name", pattern)}
	}
	return table.Flush()
}

// moduleInfos describes all native modules, by family and name.
func moduleInfos() ([]moduleInfo, error) {
	cases, err := native.Cases()
	if err != nil {
		return nil, err
	}
	var out []moduleInfo
	for _, family := range native.Families(sourceModules()) {
		for _, module := range family.Table {
			data, err := family.Schemas.ReadFile(module.Name + ".meta.json")
			if err != nil {
				return nil, err
			}
			var meta struct {
				Summary string          `json:"summary"`
				Schema  json.RawMessage `json:"schema"`
				Schema2 json.RawMessage `json:"schema_2"`
			}
			if err := json.Unmarshal(data, &meta); err != nil {
				return nil, fmt.Errorf("%s.meta.json: %w", module.Name, err)
			}
			count := cases[family.Folder+"/"+module.Name]
			info := moduleInfo{Class: family.Class, Name: module.Name, Summary: meta.Summary, Accepted: count.Accepted, Refused: count.Refused}
			if len(meta.Schema) > 0 {
				info.Formats = append(info.Formats, "1")
			}
			if len(meta.Schema) > 0 || len(meta.Schema2) > 0 {
				info.Formats = append(info.Formats, "2")
			}
			out = append(out, info)
		}
	}
	return out, nil
}

func schemaCommand() *cobra.Command {
	var class string
	cmd := &cobra.Command{
		Use:   "schema NAME",
		Short: "Print the description and the schema of a module",
		Long:  "Prints NAME.meta.json of a module of this program: what it does, what it may do, and the schema of its options.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("one module is needed, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := findSchema(class, args[0])
			if err == nil {
				_, err = os.Stdout.Write(data)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&class, "class", "", "family of the module, where several have the name: stage, assembler, ...")
	return cmd
}

// findSchema returns the .meta.json of a module.
func findSchema(class, name string) ([]byte, error) {
	var data []byte
	var classes []string
	for _, family := range native.Families(sourceModules()) {
		if class != "" && !strings.EqualFold(class, family.Class) {
			continue
		}
		found, err := family.Schemas.ReadFile(name + ".meta.json")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, classes = found, append(classes, strings.ToLower(family.Class))
	}
	switch len(classes) {
	case 0:
		return nil, usageError{fmt.Errorf("ossify has no module %s; ossify modules lists all", name)}
	case 1:
		return data, nil
	}
	return nil, usageError{fmt.Errorf("%s is the name of several modules: choose with --class %s", name, strings.Join(classes, " or --class "))}
}

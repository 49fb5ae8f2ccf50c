package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ossify/ossify/native"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
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
	cmd.AddCommand(showModuleCommand())
	return cmd
}

// moduleShown is what is told of one module.
type moduleShown struct {
	Class   string   `json:"class"`
	Name    string   `json:"name"`
	Summary string   `json:"summary"`
	Path    string   `json:"path,omitempty"`
	Formats []string `json:"formats"`
	// Capabilities are all that it runs with, Own those of them that only it has.
	Capabilities []string `json:"capabilities"`
	Own          []string `json:"own-capabilities"`
	Network      bool     `json:"network"`
	Sources      []string `json:"sources"`
	// Storage is what a source may do with container storages: "", "read-only" or "writable".
	Storage string `json:"storage,omitempty"`
}

func showModuleCommand() *cobra.Command {
	var class string
	var libdirs []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show what a module may do",
		Long: `Shows what a module does and what it is given when it runs: its capabilities, which a stage and an
assembler have in a user namespace of their own only, and whether it gets the network. Modules of a
--libdir come before those of this program.`,
		Args: arguments(1, 1, "one module is"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := findModule(libdirs, class, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(os.Stdout, m)
			}
			return m.show(os.Stdout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&class, "class", "", "family of the module, where several have the name: stage, assembler, ...")
	f.StringArrayVarP(&libdirs, "libdir", "l", nil, "directory of modules (can be given several times)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// findModule describes a module of the libdirs, or else of this program.
func findModule(libdirs []string, class, name string) (*moduleShown, error) {
	index, err := pipeline.OpenIndex(libdirs...)
	if err != nil {
		return nil, err
	}
	var found []*moduleShown
	for _, family := range native.Families(sourceModules()) {
		if class != "" && !strings.EqualFold(class, family.Class) {
			continue
		}
		shown := &moduleShown{Class: family.Class, Name: name}
		var meta pipeline.Meta
		m, err := index.Module(family.Class, name)
		switch {
		case err == nil:
			meta, shown.Path = m.Meta, m.Path
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		default:
			data, readErr := family.Schemas.ReadFile(name + ".meta.json")
			if errors.Is(readErr, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(readErr, json.Unmarshal(data, &meta)); err != nil {
				return nil, fmt.Errorf("%s.meta.json: %w", name, err)
			}
		}
		shown.take(&meta)
		found = append(found, shown)
	}
	switch len(found) {
	case 0:
		return nil, usageError{fmt.Errorf("there is no module %s; ossify modules lists those of ossify, --libdir adds others", name)}
	case 1:
		return found[0], nil
	}
	var classes []string
	for _, m := range found {
		classes = append(classes, strings.ToLower(m.Class))
	}
	return nil, usageError{fmt.Errorf("%s is the name of several modules: choose with --class %s", name, strings.Join(classes, " or --class "))}
}

// take is what the module's description says.
func (m *moduleShown) take(meta *pipeline.Meta) {
	m.Summary, m.Sources = meta.Summary, append([]string{}, meta.Sources...)
	m.Formats, m.Capabilities, m.Own = []string{}, []string{}, []string{}
	if len(meta.Schema) > 0 {
		m.Formats = append(m.Formats, "1")
	}
	if len(meta.Schema) > 0 || len(meta.Schema2) > 0 {
		m.Formats = append(m.Formats, "2")
	}
	switch m.Class {
	case "Stage", "Assembler":
		m.Network = meta.Network
		for _, name := range meta.Capabilities {
			if !slices.Contains(sandbox.DefaultCapabilities, name) {
				m.Own = append(m.Own, name)
			}
		}
		m.Capabilities = append(slices.Clone(sandbox.DefaultCapabilities), m.Own...)
		slices.Sort(m.Capabilities)
	case "Runner":
		m.Capabilities = sandbox.DefaultCapabilities
	case "Source":
		m.Network, m.Storage = true, meta.Storage
	}
}

func (m *moduleShown) show(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name string, values ...string) {
		if text := strings.Join(values, ", "); text != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, text)
		}
	}
	line(strings.ToLower(m.Class), printable(m.Name))
	line("summary", printable(m.Summary))
	line("file", printable(m.Path))
	line("formats", m.Formats...)
	line("network", map[bool]string{true: "yes", false: "none"}[m.Network])
	line("sources", m.Sources...)
	line("storage", m.Storage)
	for i, names := range slices.Collect(slices.Chunk(m.Capabilities, 5)) {
		line([]string{"capabilities", ""}[min(i, 1)], names...)
	}
	line("its own", m.Own...)
	return w.Flush()
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

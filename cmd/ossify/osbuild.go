package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/pipeline"
	"github.com/spf13/cobra"
)

// Started as "osbuild", this program answers as osbuild's command line does, for
// programs that read the answers: it builds what --export names and nothing
// else, and tells what it did in osbuild's words.

// osbuildVersion is the release of osbuild whose command line this is.
const osbuildVersion = "191"

// osbuildLibdir is where distributions install osbuild's modules.
const osbuildLibdir = "/usr/lib/osbuild"

// isOsbuild says whether the user started this program as osbuild.
func isOsbuild() bool { return filepath.Base(programName()) == "osbuild" }

// asOsbuild turns the root command into osbuild's.
func asOsbuild(cmd *cobra.Command, o *buildOptions) {
	o.osbuild = true
	cmd.Use = "osbuild MANIFEST"
	cmd.Long = "Ossify under the name of osbuild: runs a manifest without root and answers as osbuild does."
	cmd.SetVersionTemplate("osbuild " + osbuildVersion + "\n")
	if os.Getenv("OSSIFY_STORE") == "" {
		o.store = ".osbuild"
		for _, name := range []string{"store", "cache"} {
			cmd.Flags().Lookup(name).DefValue = o.store
		}
	}
	if st, err := os.Stat(osbuildLibdir); err == nil && st.IsDir() {
		o.defaultLibdirs = []string{osbuildLibdir}
		cmd.Flags().Lookup("libdir").Usage += "; the default is " + osbuildLibdir
	}
}

// told is a refusal that osbuild makes on standard output.
func told(format string, args ...any) error {
	fmt.Printf(format+"\n", args...)
	return reportedError{exitFailed}
}

// osbuildTargets are the pipelines to export, and those only.
func (o *buildOptions) osbuildTargets(m *pipeline.Manifest) ([]*pipeline.Pipeline, error) {
	var targets []*pipeline.Pipeline
	var missing []string
	for _, name := range o.exports {
		if p, _ := exported(m, name); p != nil {
			targets = append(targets, p)
		} else {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		list := "['" + strings.Join(m.Names(), "', '") + "']"
		for _, name := range missing {
			fmt.Printf("Export %s not found in %s\n", name, list)
		}
		return nil, told("Failed")
	}
	if len(o.checkpoints) > 0 && len(m.Match(o.checkpoints...)) == 0 {
		fmt.Println("No checkpoints matched provided patterns!")
		return nil, told("Failed")
	}
	return targets, nil
}

// answer tells the outcome of a build in osbuild's words.
func (o *buildOptions) answer(e *engine, m *pipeline.Manifest, opts pipeline.RunOptions, runErr error) error {
	if runErr != nil {
		fmt.Println("Failed")
		return runErr
	}
	fmt.Println("\nPipelines")
	for _, p := range m.Pipelines {
		id := p.ID()
		if id == "" {
			id = "None"
		}
		fmt.Printf("  %-10s\t%s\n", p.Name+":", id)
	}
	fmt.Println("\nCheckpoints")
	if len(o.checkpoints) == 0 {
		return nil
	}
	for _, s := range m.Match(o.checkpoints...) {
		layer, err := m.Checkpoint(s, opts)
		if err != nil {
			return err
		}
		if layer != nil {
			fmt.Printf("  %s: cached\n", s.ID)
		} else {
			fmt.Printf("  %s: not cached\n", s.ID)
		}
	}
	return nil
}

// answerInvalid lists a manifest's faults under their places.
func answerInvalid(invalid *pipeline.ValidationError) error {
	fmt.Printf("%s has errors:\n\n", invalid.Name)
	for _, f := range invalid.Faults {
		fmt.Printf("%s:\n  %s\n\n", f.ID(), f.Message)
	}
	return reportedError{exitInvalid}
}

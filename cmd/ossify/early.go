package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ossify/ossify/pipeline"
	"github.com/spf13/cobra"
)

// earlyOptions are those of osbuild's first releases that later ones dropped.
type earlyOptions struct {
	buildEnv, sources, secrets string
	// loaded are the secrets, by source.
	loaded map[string]json.RawMessage
}

func (o *earlyOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.buildEnv, "build-env", "", "file with the innermost build pipeline and its runner, for a manifest of format 1")
	f.StringVar(&o.sources, "sources", "", "file with the sources, instead of those of a manifest of format 1")
	f.StringVar(&o.secrets, "secrets", "", "file with what sources need to be let in, by source")
}

// apply returns the manifest with what the options add to it.
func (o *earlyOptions) apply(name string, manifest []byte) ([]byte, error) {
	if o.secrets != "" {
		data, err := readOption("--secrets", o.secrets)
		if err != nil {
			return nil, err
		}
		// The reason could quote the file.
		if json.Unmarshal(data, &o.loaded) != nil {
			return nil, usageError{fmt.Errorf("--secrets %s: must be a JSON object with a member for each source", o.secrets)}
		}
	}
	// What was a source of that name then is now another's.
	if secrets, ok := o.loaded["org.osbuild.files"]; ok {
		o.loaded["org.osbuild.curl"] = secrets
		delete(o.loaded, "org.osbuild.files")
	}
	if o.sources == "" && o.buildEnv == "" {
		return manifest, nil
	}
	var sources, buildEnv []byte
	var err error
	if o.sources != "" {
		if sources, err = readOption("--sources", o.sources); err != nil {
			return nil, err
		}
	}
	if o.buildEnv != "" {
		if buildEnv, err = readOption("--build-env", o.buildEnv); err != nil {
			return nil, err
		}
	}
	manifest, err = pipeline.Extend1(manifest, sources, buildEnv)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", name, err)}
	}
	return manifest, nil
}

// check refuses secrets that nobody would ask for.
func (o *earlyOptions) check(m *pipeline.Manifest) error {
	for name := range o.loaded {
		if !slices.ContainsFunc(m.Sources, func(s *pipeline.Source) bool { return s.Name == name }) {
			return usageError{fmt.Errorf("--secrets %s: %s has no source %q", o.secrets, m.Name, name)}
		}
	}
	return nil
}

func readOption(flag, path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return data, nil
}

// tellEarlyIDs prints the two lines that scripts around osbuild's first releases
// read.
func tellEarlyIDs(m *pipeline.Manifest) {
	for _, line := range []struct{ label, pipeline string }{{"tree id:", "tree"}, {"output id:", "assembler"}} {
		id := "None"
		if p := m.Pipeline(line.pipeline); p != nil && p.ID() != "" {
			id = p.ID()
		}
		fmt.Println(line.label, id)
	}
}

// keepOutput copies what an assembler has made to refs/ID in the store, where
// osbuild's first releases had it.
func keepOutput(e *engine, res *pipeline.Result, p *pipeline.Pipeline) error {
	layer, err := builtTree(res, p)
	if err != nil {
		return err
	}
	_, err = exportFiles(e, layer, filepath.Join(e.store.Outputs(), p.ID()))
	return diskFull(err, e.store.Dir())
}

package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

type containersStorageConfOptions struct {
	Filename string          `json:"filename"`
	Filebase string          `json:"filebase"`
	Comment  []string        `json:"comment"`
	Config   json.RawMessage `json:"config"`
}

// containersStorageConf merges settings into storage.conf. Of a file that is
// there only the table "storage" stays; filebase is a file of the build root.
func containersStorageConf(_ context.Context, args *module.Args, options containersStorageConfOptions) error {
	path := "/etc/containers/storage.conf"
	if options.Filename != "" {
		path = options.Filename
	}
	decoded, err := pyjson.Decode(options.Config, nil)
	if err != nil {
		return fmt.Errorf("decode config: %w", err)
	}
	data := pyjson.NewObject()
	if options.Filebase != "" {
		if data, err = readTOML(options.Filebase); err != nil {
			return fmt.Errorf("read filebase of the build root: %w", err)
		}
	}
	target, err := treeTarget(args, path)
	if err != nil {
		return err
	}
	have, err := readTOML(target)
	switch {
	case err == nil:
		err = mergeTable(data, have, "storage")
	case errors.Is(err, os.ErrNotExist):
		err = nil
	}
	if err == nil {
		err = mergeTable(data, decoded.(*pyjson.Object), "storage")
	}
	if err != nil {
		return fmt.Errorf("merge storage.conf: %w", err)
	}
	if err := writeFile(args, path, storageConfHeader(options.Comment)+dumpTOML(data)); err != nil {
		return fmt.Errorf("write storage.conf: %w", err)
	}
	return nil
}

// storageConfHeader says in comments what the file is, and then what the
// manifest has to say.
func storageConfHeader(comment []string) string {
	lines := append([]string{
		"Settings of the containers/storage library, for podman and its kin.",
		"They are described in containers-storage.conf(5).",
		"Written by the stage org.osbuild.containers.storage.conf.",
		"\n",
	}, comment...)
	return "# " + strings.Join(lines, "\n# ") + "\n\n"
}

// mergeTable merges the table of that name in from into the one in into, in
// which keys keep their places; tables in both are merged in turn.
func mergeTable(into, from *pyjson.Object, name string) error {
	value := from.Get(name)
	want, ok := value.(*pyjson.Object)
	if value != nil && !ok {
		return fmt.Errorf("%s is no table", name)
	}
	if !ok || len(want.Keys) == 0 {
		return nil
	}
	if !into.Has(name) {
		into.Set(name, pyjson.NewObject())
	}
	have, ok := into.Get(name).(*pyjson.Object)
	if !ok {
		return fmt.Errorf("%s is no table", name)
	}
	for _, key := range want.Keys {
		_, wantTable := want.Get(key).(*pyjson.Object)
		_, haveTable := have.Get(key).(*pyjson.Object)
		if !wantTable || !haveTable {
			have.Set(key, want.Get(key))
			continue
		}
		if err := mergeTable(have, want, key); err != nil {
			return err
		}
	}
	return nil
}

package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

// rhsmFacts writes a new file of facts, spelled as Python's json.dump does.
// The options are a map, because their names are matched exactly.
func rhsmFacts(_ context.Context, args *module.Args, options map[string]json.RawMessage) error {
	raw, ok := options["facts"]
	if !ok {
		return errors.New(`options lack "facts"`)
	}
	facts, err := pyjson.Decode(raw, nil)
	if err != nil {
		return fmt.Errorf("decode facts: %w", err)
	}
	if err := createFile(args, "/etc/rhsm/facts/osbuild.facts", string(pyjson.Dumps(facts, false))); err != nil {
		return fmt.Errorf("write facts: %w", err)
	}
	return nil
}

package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type chownOptions struct {
	Items ordered[struct {
		User      owner `json:"user"`
		Group     owner `json:"group"`
		Recursive bool  `json:"recursive"`
	}] `json:"items"`
}

// owner is a user or group as chown's command line names it.
type owner string

// UnmarshalJSON takes a name or a number, which is spelled as Python does: of one
// with a fraction chown makes a user and a group.
func (o *owner) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, (*string)(o))
	}
	*o = owner(pythonNumber(json.Number(data)))
	return nil
}

// chown changes owners with the tree's own chown, which knows the tree's users.
func chown(ctx context.Context, args *module.Args, options chownOptions) error {
	if options.Items == nil {
		return errors.New(`options lack "items"`)
	}
	for _, item := range options.Items {
		argv := []string{strings.TrimRight(string(item.value.User)+":"+string(item.value.Group), ":")}
		if item.value.Recursive {
			argv = append(argv, "--recursive")
		}
		cmd, err := treeCommand(ctx, args, "org.osbuild.chown", "chown", append(argv, "--", item.name)...)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("change owner of %s: %w", item.name, err)
		}
	}
	return nil
}

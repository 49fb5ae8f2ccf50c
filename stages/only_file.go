package stages

import (
	"fmt"
	"path/filepath"

	"github.com/ossify/ossify/module"
)

// onlyFile returns the path of the only file of an input.
func onlyFile(args *module.Args, input string) (string, error) {
	files := args.Inputs[input].Data.Files
	if len(files) != 1 {
		return "", fmt.Errorf("input %q must have one file, not %d", input, len(files))
	}
	var path string
	for name := range files {
		path = filepath.Join(args.Inputs[input].Path, name)
	}
	return path, nil
}

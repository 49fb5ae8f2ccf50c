package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

type fstabOptions struct {
	Ostree *struct {
		Deployment ostreeDeployment `json:"deployment"`
	} `json:"ostree"`
	Filesystems []fstabEntry `json:"filesystems"`
}

type fstabEntry struct {
	Device    string      `json:"device"`
	UUID      string      `json:"uuid"`
	Label     string      `json:"label"`
	PartLabel string      `json:"partlabel"`
	Path      string      `json:"path"`
	VFSType   *string     `json:"vfs_type"`
	Options   *string     `json:"options"`
	Freq      json.Number `json:"freq"`
	PassNo    json.Number `json:"passno"`
}

// fstab replaces the content of /etc/fstab, of the tree or of an OSTree
// deployment in it.
func fstab(_ context.Context, args *module.Args, options fstabOptions) error {
	if options.Filesystems == nil {
		return errors.New(`options lack "filesystems"`)
	}
	root := "/"
	if options.Ostree != nil {
		var err error
		if root, err = options.Ostree.Deployment.find(args); err != nil {
			return fmt.Errorf("find OSTree deployment: %w", err)
		}
	}
	var text strings.Builder
	for i, entry := range options.Filesystems {
		line, err := entry.line()
		if err != nil {
			return fmt.Errorf("filesystem %d: %w", i, err)
		}
		text.WriteString(line)
	}
	path, err := treeTarget(args, filepath.Join(root, "etc/fstab"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write fstab: %w", err)
	}
	return nil
}

// line returns the entry as fstab(5) has it, separated by tabs.
func (e fstabEntry) line() (string, error) {
	var spec string
	switch {
	case e.UUID != "":
		spec = "UUID=" + e.UUID
	case e.Label != "":
		spec = "LABEL=" + e.Label
	case e.PartLabel != "":
		spec = "PARTLABEL=" + e.PartLabel
	case e.Device != "":
		spec = e.Device
	default:
		return "", errors.New("uuid, label, partlabel or device must not be empty")
	}
	vfsType, options := "none", "defaults"
	if e.VFSType != nil {
		vfsType = *e.VFSType
	}
	if e.Options != nil {
		options = *e.Options
	}
	numbers := [2]string{"0", "0"}
	for i, n := range []json.Number{e.Freq, e.PassNo} {
		if n == "" {
			continue
		}
		numbers[i] = pythonNumber(n)
	}
	return strings.Join([]string{spec, e.Path, vfsType, options, numbers[0], numbers[1]}, "\t") + "\n", nil
}

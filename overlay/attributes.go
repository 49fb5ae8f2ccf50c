package overlay

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// attributes returns the extended attributes of a file.
func attributes(path string) (map[string]string, error) {
	list := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil, &os.PathError{Op: "list attributes", Path: path, Err: err}
	}
	attrs := map[string]string{}
	value := make([]byte, 64<<10)
	for _, name := range bytes.Split(list[:n], []byte{0}) {
		if len(name) == 0 {
			continue
		}
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, &os.PathError{Op: "get attribute " + string(name), Path: path, Err: err}
		}
		attrs[string(name)] = string(value[:n])
	}
	return attrs, nil
}

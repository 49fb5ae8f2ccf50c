package overlay

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// InheritRoot gives an upper directory the mode, the attributes and the time of the
// root below it, as nothing copies those up. The owner is the same already.
func InheritRoot(upper, below string) error {
	attrs, err := attributes(below)
	if err != nil {
		return fmt.Errorf("inherit root directory: %w", err)
	}
	for name, value := range attrs {
		if strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		if err := unix.Lsetxattr(upper, name, []byte(value), 0); err != nil {
			return fmt.Errorf("inherit attribute %s of root directory: %w", name, err)
		}
	}
	st, err := lstat(below, ".")
	if err != nil {
		return fmt.Errorf("inherit root directory: %w", err)
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return fmt.Errorf("inherit mode of root directory: %w", err)
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, upper, times, 0); err != nil {
		return fmt.Errorf("inherit time of root directory: %w", err)
	}
	return nil
}

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

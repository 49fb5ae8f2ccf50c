package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// tool runs programs of the build root.
type tool struct {
	log io.Writer
	// epoch is the clock of programs that let it be set, in seconds.
	epoch int64
}

// packages that hold a program, by its name: for the message when it is missing.
var packages = map[string]string{
	"mke2fs":        "e2fsprogs",
	"debugfs":       "e2fsprogs",
	"mkfs.btrfs":    "btrfs-progs",
	"mkfs.xfs":      "xfsprogs",
	"mkfs.vfat":     "dosfstools",
	"mcopy":         "mtools",
	"mmd":           "mtools",
	"qemu-img":      "qemu-utils or qemu-img",
	"xz":            "xz-utils or xz",
	"grub2-mkimage": "grub-common or grub2-tools-minimal",
}

// find returns the path of the first of several names of a program.
func (t *tool) find(names ...string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		for _, name := range names {
			if path, err := exec.LookPath(dir + name); err == nil {
				return path, nil
			}
		}
	}
	last := names[len(names)-1]
	return "", fmt.Errorf("the build root has no %s: install %s in it", strings.Join(names, " or "), packages[last])
}

// run runs a program in a plain environment with the additions of env, logs
// what it says and puts the end of that into the error.
func (t *tool) run(ctx context.Context, env []string, stdout io.Writer, name string, args ...string) error {
	path, err := t.find(name)
	if err != nil {
		return err
	}
	return t.runPath(ctx, env, stdout, path, args...)
}

func (t *tool) runPath(ctx context.Context, env []string, stdout io.Writer, path string, args ...string) error {
	said, err := t.listen(ctx, env, stdout, path, args...)
	if said != "" {
		fmt.Fprint(t.log, said)
	}
	return err
}

// listen is runPath for programs whose status tells nothing: what the program said
// on standard error is returned, not logged.
func (t *tool) listen(ctx context.Context, env []string, stdout io.Writer, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=/", "LC_ALL=C", "TZ=UTC",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", t.epoch),
	}, env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Stdout = stdout
	if stdout == nil {
		cmd.Stdout = &said
	}
	err := cmd.Run()
	if err == nil {
		return said.String(), nil
	}
	if ctx.Err() != nil {
		return said.String(), ctx.Err()
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	return said.String(), &toolError{name: base, err: err, said: strings.TrimSpace(said.String())}
}

// toolError is the failure of a program.
type toolError struct {
	name string
	err  error
	said string
}

func (e *toolError) Error() string {
	said := e.said
	if len(said) > 2000 {
		said = "..." + said[len(said)-2000:]
	}
	if said == "" {
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.name, e.err, said)
}

func (e *toolError) Unwrap() error { return e.err }

// saidAny tells whether err is of a program that printed one of the texts.
func saidAny(err error, texts ...string) bool {
	var failed *toolError
	if !errors.As(err, &failed) {
		return false
	}
	for _, text := range texts {
		if strings.Contains(failed.said, text) {
			return true
		}
	}
	return false
}

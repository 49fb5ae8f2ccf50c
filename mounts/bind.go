package mounts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"
	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

type bindOptions struct {
	Source string `json:"source"`
}

// bind shows a folder, mostly one of the stage's mounts, in its tree as well, with
// what is mounted in it.
func bind(_ context.Context, call *module.MountCall, o bindOptions) (string, func() error, error) {
	source, err := bindPlace(call, o.Source)
	if err != nil {
		return "", nil, fmt.Errorf("source: %w", err)
	}
	target, err := bindPlace(call, call.Target)
	if err != nil {
		return "", nil, fmt.Errorf("target: %w", err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", nil, fmt.Errorf("mount %s at %s: %w", o.Source, call.Target, err)
	}
	id, err := topmost(target)
	if err != nil {
		return "", nil, errors.Join(err, unix.Unmount(target, unix.MNT_DETACH))
	}
	return "", func() error { return unmountAll(id) }, nil
}

// bindPlace finds what tree://NAME or mount://NAME means. osbuild takes NAME, and
// leaves out what follows it without a word: that is refused.
func bindPlace(call *module.MountCall, text string) (string, error) {
	scheme, name, _ := strings.Cut(text, "://")
	if strings.ContainsAny(strings.TrimSuffix(name, "/"), "/?#") {
		return "", fmt.Errorf("location %q must be %s://NAME: no path can follow the name", text, scheme)
	}
	switch scheme {
	case "tree":
		return securejoin.SecureJoin(call.Tree, name)
	case "mount":
		return securejoin.SecureJoin(call.Root, name)
	}
	return "", fmt.Errorf("location %q must begin with tree:// or mount://", text)
}

// topmost returns the id of what was mounted last at point.
func topmost(point string) (id int, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(point))
	for _, m := range mounts {
		id = m.ID
	}
	if err == nil && id == 0 {
		err = fmt.Errorf("%s is not mounted", point)
	}
	return id, err
}

// unmountAll takes away the mount with that id and all on it.
func unmountAll(id int) error {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	ours := map[int]bool{id: true}
	var points []string
	for _, m := range all { // what is on another mount comes after it
		if ours[m.ID] || ours[m.Parent] {
			ours[m.ID] = true
			points = append(points, m.Mountpoint)
		}
	}
	var errs []error
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

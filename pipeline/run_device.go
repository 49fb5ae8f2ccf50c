package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
)

// attached are the devices and mounts of a running stage.
type attached struct {
	// devices and mounts are what the stage's arguments say of them.
	devices, mounts map[string]json.RawMessage
	services        []*sandbox.Service
	root            string
	// regions are devices without the kernel, ops show them to the stage;
	// scratch is a folder for copies.
	regions []*region
	ops     []sandbox.Op
	scratch string
}

// attachments are the modules of a stage's devices and mounts.
func (s *Stage) attachments() []*Module {
	var modules []*Module
	for _, d := range s.Devices {
		modules = append(modules, d.Module)
	}
	for _, m := range s.Mounts {
		modules = append(modules, m.Module)
	}
	return modules
}

// detachGrace is how long a service may take to write what is left to the image
// and to let go of it.
const detachGrace = 10 * time.Minute

// attach opens the stage's devices and makes its mounts, each by its service, in
// the places of a container, or without the kernel where that is not for this
// engine. scratch is a folder on the store's filesystem. The caller calls detach,
// also after an error.
func (b *builder) attach(ctx context.Context, s *Stage, at sandbox.Places, scratch string) (*attached, error) {
	a := &attached{devices: map[string]json.RawMessage{}, mounts: map[string]json.RawMessage{}, root: at.Mounts, scratch: scratch}
	paths, regions := map[*Device]string{}, map[*Device]*region{}
	offline := func(m *Module, how string) bool { return m.Meta.Offline == how && !b.Containers.HasLoopDevices() }
	for _, d := range s.Devices {
		if offline(d.Module, offlineFile) {
			r, err := a.openOffline(d, at)
			if err == nil {
				regions[d] = r
				a.devices[d.Name], err = json.Marshal(map[string]string{"path": r.path})
			}
			if err != nil {
				return a, fmt.Errorf("device %q: %w", d.Name, err)
			}
			continue
		}
		path, err := a.open(ctx, d, paths[d.Parent], at)
		if err != nil {
			return a, fmt.Errorf("device %q: %w", d.Name, needsRoot(err))
		}
		paths[d] = path
	}
	for _, m := range s.Mounts {
		if offline(m.Module, offlineFAT) {
			path, err := a.mountOffline(m, regions[m.Device], at)
			if err == nil {
				a.mounts[m.Name], err = json.Marshal(map[string]string{"path": filepath.Join("/run/osbuild/mounts", path)})
			}
			if err != nil {
				return a, fmt.Errorf("mount %q: %w", m.Name, err)
			}
			continue
		}
		if err := a.mount(ctx, m, paths[m.Device], at); err != nil {
			return a, fmt.Errorf("mount %q: %w", m.Name, needsRoot(err))
		}
	}
	return a, nil
}

// start starts the service of a device or mount.
func (a *attached) start(ctx context.Context, m *Module, id string) (*sandbox.Service, error) {
	service, err := sandbox.StartService(ctx, m.Path, m.Libdir, a.root, id)
	if err != nil {
		return nil, err
	}
	service.Grace = detachGrace
	a.services = append(a.services, service)
	return service, nil
}

// open opens a device and returns its path relative to the place of devices.
func (a *attached) open(ctx context.Context, d *Device, parent string, at sandbox.Places) (string, error) {
	service, err := a.start(ctx, d.Module, "device/"+d.Name)
	if err != nil {
		return "", err
	}
	args := map[string]any{"dev": at.Devices, "tree": at.Tree, "parent": nil, "options": orEmptyJSON(d.Options)}
	if d.Parent != nil {
		args["parent"] = parent
	}
	var reply map[string]json.RawMessage
	if err := service.Call("open", args, &reply, nil); err != nil {
		return "", err
	}
	var path string
	if raw, ok := reply["path"]; ok {
		if err := json.Unmarshal(raw, &path); err != nil {
			return "", fmt.Errorf("the device returned no path: %w", err)
		}
		if !filepath.IsLocal(path) {
			return "", fmt.Errorf("the device returned the path %q, which is not below /dev", path)
		}
		if reply["path"], err = json.Marshal(filepath.Join("/dev", path)); err != nil {
			return "", err
		}
	}
	a.devices[d.Name], err = json.Marshal(reply)
	return path, err
}

// mount makes a mount from the device at that path.
func (a *attached) mount(ctx context.Context, m *Mount, device string, at sandbox.Places) error {
	service, err := a.start(ctx, m.Module, "mount/"+m.Name)
	if err != nil {
		return err
	}
	args := map[string]any{
		"source": nil, "target": nil, "root": at.Mounts, "tree": at.Tree, "options": orEmptyJSON(m.Options),
	}
	if !m.noTarget {
		args["target"] = m.Target
	}
	if m.Device != nil {
		source := filepath.Join(at.Devices, device)
		// Tools in the stage look the device up in mountinfo, where the
		// host's name of it is the one that they can find in /dev.
		if host := filepath.Join("/dev", device); exists(host) {
			source = host
		}
		if m.Partition != nil {
			source += "p" + m.Partition.String()
		}
		args["source"] = source
	}
	var path *string
	if err := service.Call("mount", args, &path, nil); err != nil {
		return err
	}
	reply := map[string]string{}
	if path != nil && *path != "" {
		rel, err := filepath.Rel(at.Mounts, *path)
		if err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("the mount returned %s, which is not below %s", *path, at.Mounts)
		}
		reply["path"] = filepath.Join("/run/osbuild/mounts", rel)
	}
	a.mounts[m.Name], err = json.Marshal(reply)
	return err
}

// detach lets the services take their mounts and devices away, the last one
// first, and takes away what they leave. What a stage that succeeded wrote to
// copies goes back to where they are from.
func (a *attached) detach(succeeded bool) error {
	var errs []error
	for _, r := range a.regions {
		if succeeded {
			if err := r.writeBack(); err != nil {
				errs = append(errs, fmt.Errorf("write back to %s: %w", filepath.Base(r.file.Name()), err))
			}
		}
		errs = append(errs, r.close())
	}
	for i := len(a.services) - 1; i >= 0; i-- {
		errs = append(errs, a.services[i].Close())
	}
	return errors.Join(append(errs, overlay.UnmountBelow(a.root))...)
}

// needsRoot turns the error of a service that the kernel has refused something
// into one that says what to do, with the line that tells of it.
func needsRoot(err error) error {
	for _, line := range strings.Split(err.Error(), "\n") {
		words := strings.ToLower(line)
		for _, refusal := range []string{"permission denied", "not permitted", "permissionerror", "only root", "must be superuser"} {
			if strings.Contains(words, refusal) {
				return fmt.Errorf("%s: loop devices and kernel mounts are for root: run ossify as root, or write the disk with the stage org.ossify.disk or the assembler org.osbuild.qemu, which need neither (--in-vm starts no virtual machine here)", strings.TrimSpace(line))
			}
		}
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func orEmptyJSON(options json.RawMessage) json.RawMessage {
	if len(options) == 0 {
		return json.RawMessage("{}")
	}
	return options
}

package pipeline

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/sandbox"
)

// attached are the devices and mounts of a running stage.
type attached struct {
	// devices and mounts are what the stage's arguments say of them.
	devices, mounts map[string]json.RawMessage
	services        []*sandbox.Service
	root            string
	// paths are those of devices by services, relative to the place of devices.
	paths map[*Device]string
	// offline says that this engine does without the kernel: files are devices,
	// lease is what ossify-loop has. ops show them to the stage; scratch is a
	// folder for copies.
	offline bool
	files   map[*Device]*region
	regions []*region
	lease   *leaseChain
	ops     []sandbox.Op
	scratch string
	// buildRoot has the programs that unpack filesystems to directories, which
	// are in unpacked.
	buildRoot *sandbox.BuildRoot
	unpacked  []string
	// leased are the parts that are mounted by ossify-loop, clones their mounts,
	// left the side records of these.
	leased []*leased
	clones []*os.File
	left   []leftRecord
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
func (b *builder) attach(ctx context.Context, s *Stage, at sandbox.Places, root *sandbox.BuildRoot, scratch string) (*attached, error) {
	a := &attached{
		devices: map[string]json.RawMessage{}, mounts: map[string]json.RawMessage{}, root: at.Mounts,
		paths: map[*Device]string{}, scratch: scratch, buildRoot: root, files: map[*Device]*region{},
	}
	if !b.Containers.HasLoopDevices() {
		a.offline, a.lease = true, b.runs[s.Pipeline].lease
	}
	for _, d := range s.Devices {
		if err := a.device(ctx, s, d, at); err != nil {
			return a, fmt.Errorf("device %q: %w", d.Name, err)
		}
	}
	for _, m := range s.Mounts {
		if err := a.mountpoint(ctx, b, s, m, at); err != nil {
			return a, fmt.Errorf("mount %q: %w", m.Name, err)
		}
	}
	return a, nil
}

// device makes a device, in the way that this engine can.
func (a *attached) device(ctx context.Context, s *Stage, d *Device, at sandbox.Places) (err error) {
	if d.Module.Meta.Offline != offlineFile || !a.offline && needsKernel(s, d) {
		a.paths[d], err = a.open(ctx, d, a.paths[d.Parent], at)
		return needsRoot(err)
	}
	// A leased part has a name for the stage, but only its mount can be used.
	path := filepath.Join(offlineDevices, "leased")
	if part := a.lease.ofDevice(s, d); part == nil || part.made > s.Index {
		r, err := a.openOffline(d, at)
		if err != nil {
			return err
		}
		a.files[d], path = r, r.path
	}
	a.devices[d.Name], err = json.Marshal(map[string]string{"path": path})
	return err
}

// needsKernel tells whether a stage of an engine that can have loop devices gets one
// for the device. Not if it is content with a file: programs such as mkfs.xfs set
// up block devices as only root of the machine may, which no stage is.
func needsKernel(s *Stage, d *Device) bool {
	for _, m := range s.Mounts {
		if m.Device == d {
			return true
		}
	}
	for _, other := range s.Devices {
		if other.Parent == d {
			return true
		}
	}
	region, err := loop.ParseRegion(orEmptyJSON(d.Options))
	return err != nil || d.Parent != nil || region.SectorSize != 512 || region.PartScan
}

// mountpoint makes a mount, in the way that this engine can.
func (a *attached) mountpoint(ctx context.Context, b *builder, s *Stage, m *Mount, at sandbox.Places) (err error) {
	switch part := a.lease.ofDevice(s, m.Device); {
	case part != nil && m.Module.Meta.Offline == offlineLease:
		err = a.mountLeased(ctx, m, part)
	case a.offline && m.Module.Meta.Offline == offlineFAT:
		err = a.mountOffline(m)
	case a.offline && unpackers[m.Module.Meta.Offline].program != "":
		err = a.mountUnpacked(ctx, b, m)
	default:
		return needsRoot(a.mount(ctx, m, a.paths[m.Device], at))
	}
	if err != nil {
		return err
	}
	a.mounts[m.Name], err = json.Marshal(map[string]string{"path": m.inside(), "record": m.record()})
	return err
}

// record is where a stage leaves the side record of the mount.
func (m *Mount) record() string {
	return module.RecordPath + "." + hex.EncodeToString([]byte(m.Name))
}

// inside is where a stage finds the mount.
func (m *Mount) inside() string {
	return filepath.Join("/run/osbuild/mounts", filepath.Clean("/"+m.Target))
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
func (a *attached) detach(ctx context.Context, succeeded bool) error {
	var errs []error
	for _, r := range a.regions {
		if succeeded {
			if err := r.writeBack(); err != nil {
				errs = append(errs, fmt.Errorf("write back to %s: %w", filepath.Base(r.file.Name()), err))
			}
		}
		errs = append(errs, r.close())
	}
	for _, dir := range a.unpacked {
		errs = append(errs, overlay.RemoveAll(dir))
	}
	for _, clone := range a.clones {
		errs = append(errs, clone.Close())
	}
	for i := len(a.services) - 1; i >= 0; i-- {
		errs = append(errs, a.services[i].Close())
	}
	errs = append(errs, overlay.UnmountBelow(a.root))
	for _, part := range a.leased {
		if succeeded {
			errs = append(errs, part.sync(ctx))
		}
	}
	return errors.Join(errs...)
}

// needsRoot turns the error of a service that the kernel has refused something
// into one that says what to do, with the line that tells of it.
func needsRoot(err error) error {
	if err == nil {
		return nil
	}
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

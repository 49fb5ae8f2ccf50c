package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// loopServer makes loop devices for a stage, as osbuild's remote loop does: the
// stage sends the file and its /dev, and gets the name of a node there. The
// devices last as long as the container.
type loopServer struct {
	// dev is the stage's /dev.
	dev string
	// allowed says that the kernel lets this engine have loop devices.
	allowed bool
	mu      sync.Mutex
	devices []*os.File
}

// loopRequest is what osbuild's client asks for (osbuild/remoteloop.py).
type loopRequest struct {
	FD         *int   `json:"fd"`
	DirFD      *int   `json:"dir_fd"`
	Offset     uint64 `json:"offset"`
	SizeLimit  uint64 `json:"sizelimit"`
	Lock       bool   `json:"lock"`
	PartScan   bool   `json:"partscan"`
	ReadOnly   bool   `json:"read_only"`
	SectorSize uint32 `json:"sector_size"`
}

// maxLoops bounds what one stage can take of the machine's devices.
const maxLoops = 64

func (l *loopServer) handle(msg json.RawMessage, files []*os.File) any {
	if !l.allowed {
		return loopError("PermissionError", "loop devices need root: run ossify as root, or use the stage org.ossify.disk or the assembler org.osbuild.qemu, which do without")
	}
	name, err := l.create(msg, files)
	if err != nil {
		return loopError("RuntimeError", err.Error())
	}
	return map[string]string{"devname": name}
}

func loopError(kind, value string) any {
	return map[string]any{"method": "exception", "exception": StageError{Type: kind, Value: value}}
}

func (l *loopServer) create(msg json.RawMessage, files []*os.File) (string, error) {
	var req loopRequest
	if err := json.Unmarshal(msg, &req); err != nil {
		return "", fmt.Errorf("malformed request: %w", err)
	}
	file := func(index *int) *os.File {
		if index == nil || *index < 0 || *index >= len(files) {
			return nil
		}
		return files[*index]
	}
	backing, dir := file(req.FD), file(req.DirFD)
	if backing == nil || dir == nil {
		return "", errors.New("malformed request: fd and dir_fd must be indexes of two descriptors that are sent along")
	}
	var sent, own unix.Stat_t
	if err := errors.Join(unix.Fstat(int(dir.Fd()), &sent), unix.Stat(l.dev, &own)); err != nil {
		return "", err
	}
	if sent.Dev != own.Dev || sent.Ino != own.Ino {
		return "", errors.New("dir_fd must be the stage's /dev")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.devices) >= maxLoops {
		return "", fmt.Errorf("the stage has %d loop devices already", maxLoops)
	}
	dev, err := attachLoop(backing, &req)
	if err != nil {
		return "", err
	}
	l.devices = append(l.devices, dev)
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		return "", err
	}
	name := filepath.Base(dev.Name())
	if err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFBLK|0o666, int(st.Rdev)); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("make the node of %s: %w", name, err)
	}
	return name, nil
}

// attachLoop gives a free loop device its file. The kernel detaches it when the
// last descriptor is closed (LO_FLAGS_AUTOCLEAR, loop(4)).
func attachLoop(backing *os.File, req *loopRequest) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("get a loop device: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: req.SectorSize}
	config.Info.Offset, config.Info.Sizelimit = req.Offset, req.SizeLimit
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if req.PartScan {
		config.Info.Flags |= unix.LO_FLAGS_PARTSCAN
	}
	mode := os.O_RDWR
	if req.ReadOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		mode = os.O_RDONLY
	}
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("get a loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if err != nil {
			return nil, fmt.Errorf("get a loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if errors.Is(err, unix.EBUSY) {
			dev.Close() // somebody was quicker
			continue
		}
		if err == nil && req.Lock {
			err = unix.Flock(int(dev.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err != nil {
			dev.Close()
			return nil, fmt.Errorf("set up %s: %w", dev.Name(), err)
		}
		return dev, nil
	}
}

// close lets go of the devices, the last one first.
func (l *loopServer) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for i := len(l.devices) - 1; i >= 0; i-- {
		dev := l.devices[i]
		if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
			errs = append(errs, fmt.Errorf("detach %s: %w", dev.Name(), err))
		}
		errs = append(errs, dev.Close())
	}
	l.devices = nil
	return errors.Join(errs...)
}

// HasLoopDevices says whether this engine can have loop devices and kernel mounts.
func (c *Containers) HasLoopDevices() bool { return c.loops }

// loopsAllowed says whether this engine can have loop devices and kernel mounts:
// only in the machine's own user namespace.
func loopsAllowed() bool {
	if !IsInitialNamespace() || os.Geteuid() != 0 {
		return false
	}
	return unix.Access("/dev/loop-control", unix.W_OK) == nil
}

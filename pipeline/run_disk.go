package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/overlay"
	"github.com/ossify/ossify/record"
	"github.com/ossify/ossify/sandbox"
)

// Values of RunOptions.DiskWriter.
const (
	DiskOffline = "offline"
	DiskMounted = "mounted"
	DiskAuto    = "auto"
)

// diskWriter is how the stage writes the filesystems of disks, "" for offline.
func (b *builder) diskWriter(s *Stage) string {
	if !s.Module.Meta.Disk || b.DiskWriter == DiskOffline {
		return ""
	}
	return b.DiskWriter
}

// diskServer makes filesystems for a stage that writes a disk, by ossify-loop.
type diskServer struct {
	ctx    context.Context
	helper string
	mu     sync.Mutex
	// made are those that are mounted, by the stage's path.
	made  map[string]*leased
	count int
}

// handle answers a module.DiskRequest. at is where the engine sees the stage's
// container, add lays out more of it.
func (d *diskServer) handle(msg json.RawMessage, files []*os.File, at string, add func(...sandbox.Op) error) any {
	var request module.DiskRequest
	err := json.Unmarshal(msg, &request)
	path := ""
	switch {
	case err != nil:
	case request.Make != nil:
		path, err = d.make(request.Make, add)
	case len(files) != 1:
		err = errors.New("the request has no file")
	default:
		err = d.finish(&request, files[0], at)
	}
	if err != nil {
		return module.DiskReply{Error: err.Error()}
	}
	return module.DiskReply{Path: path}
}

func (d *diskServer) make(fs *module.Filesystem, add func(...sandbox.Op) error) (path string, err error) {
	options, err := json.Marshal(map[string]string{"uuid": fs.UUID, "label": fs.Label})
	if err != nil {
		return "", err
	}
	filesystem, err := leasedFilesystem(fs.Type, options)
	if err != nil {
		return "", err
	}
	if fs.Size <= 0 {
		return "", fmt.Errorf("a filesystem of %d bytes cannot be made", fs.Size)
	}
	part := &leased{kind: fs.Type}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the %s by ossify-loop: %w", fs.Type, err), part.close())
		}
	}()
	if err := part.take(d.ctx, d.helper, fs.Size, filesystem); err != nil {
		return "", err
	}
	mount, err := part.mount(d.ctx, leasedMount{})
	if err != nil {
		return "", err
	}
	defer mount.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	path = fmt.Sprintf("/run/osbuild/mounts/filesystem-%d", d.count)
	d.count++
	if err := add(sandbox.Attach{Mount: mount, Target: path}); err != nil {
		return "", err
	}
	d.made[path] = part
	return path, nil
}

func (d *diskServer) finish(request *module.DiskRequest, to *os.File, at string) error {
	d.mu.Lock()
	part := d.made[request.Finish]
	delete(d.made, request.Finish)
	d.mu.Unlock()
	if part == nil {
		return fmt.Errorf("there is no filesystem at %.200q", request.Finish)
	}
	marks, err := record.Decode(strings.NewReader(request.Record))
	if err != nil {
		return errors.Join(err, part.close())
	}
	part.records = map[string]record.Record{"": marks}
	err = errors.Join(part.sync(d.ctx), overlay.UnmountBelow(filepath.Join(at, request.Finish)))
	if err == nil {
		var info os.FileInfo
		if info, err = to.Stat(); err == nil {
			err = part.exportTo(d.ctx, to, 0, info.Size())
		}
	}
	return errors.Join(err, part.close())
}

// close ends the leases of filesystems that were not finished.
func (d *diskServer) close() error {
	var errs []error
	for _, part := range d.made {
		errs = append(errs, part.close())
	}
	return errors.Join(errs...)
}

// canMountDisks says whether ossify-loop answers.
func canMountDisks(ctx context.Context, helper string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := lease.Dial(ctx, helper)
	return err == nil && conn.Close() == nil
}

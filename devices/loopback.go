package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

type loopbackOptions struct {
	Filename string `json:"filename"`
	// Start and Size count in sectors; no size is up to the file's end.
	Start      uint64 `json:"start"`
	Size       uint64 `json:"size"`
	SectorSize uint32 `json:"sector-size"`
	PartScan   bool   `json:"partscan"`
	Lock       bool   `json:"lock"`
	ReadOnly   bool   `json:"read-only"`
}

// loopback attaches a file of the tree, or a part of it, to a loop device.
func loopback(_ context.Context, call *module.OpenCall) (*module.OpenReply, func() error, error) {
	o := loopbackOptions{SectorSize: 512}
	if err := json.Unmarshal(call.Options, &o); err != nil {
		return nil, nil, fmt.Errorf("decode options: %w", err)
	}
	path, err := securejoin.SecureJoin(call.Tree, o.Filename)
	if err != nil {
		return nil, nil, fmt.Errorf("find %s in the tree: %w", o.Filename, err)
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY // and the overlay copies nothing
	}
	file, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0) // a fifo must not keep us waiting
	if err != nil {
		return nil, nil, fmt.Errorf("open %s of the tree: %w", o.Filename, errors.Unwrap(err))
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file of the tree", o.Filename)
	}
	if sectors := uint64(st.Size()) / max(1, uint64(o.SectorSize)); o.Start >= sectors || o.Size > sectors-o.Start {
		return nil, nil, fmt.Errorf("%s has %d sectors: there are not %d from sector %d on", o.Filename, sectors, max(1, o.Size), o.Start)
	}
	how := loop.Options{
		Offset: o.Start * uint64(o.SectorSize), Size: o.Size * uint64(o.SectorSize), SectorSize: o.SectorSize,
		ReadOnly: o.ReadOnly, Partitions: o.PartScan, Lock: o.Lock,
	}
	device, err := loop.Attach(file, how)
	if err != nil {
		return nil, nil, err
	}
	reply, err := show(device, call.Dev)
	if err != nil {
		return nil, nil, errors.Join(err, device.Close())
	}
	return reply, device.Close, nil
}

// show makes the device's nodes, with those of its partitions, in dev.
func show(device *loop.Device, dev string) (*module.OpenReply, error) {
	nodes, err := device.Nodes()
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		err := unix.Mknod(filepath.Join(dev, n.Name), unix.S_IFBLK|0o600, int(n.Number))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make /dev/%s: %w", n.Name, err)
		}
	}
	reply := &module.OpenReply{Path: device.Name()}
	reply.Node.Major, reply.Node.Minor = loop.Major, device.Minor
	return reply, nil
}

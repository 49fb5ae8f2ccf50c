package devices

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ossify/ossify/loop"
	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// loopback attaches a file of the tree, or a part of it, to a loop device.
func loopback(_ context.Context, call *module.OpenCall) (*module.OpenReply, func() error, error) {
	o, err := loop.ParseRegion(call.Options)
	if err != nil {
		return nil, nil, err
	}
	file, start, _, err := o.Open(call.Tree)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	how := loop.Options{
		Offset: uint64(start), Size: o.Size * uint64(o.SectorSize), SectorSize: o.SectorSize,
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

package module

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/jsoncomm"
	"github.com/ossify/ossify/record"
)

// DiskSocket is where a stage that writes disks asks the engine for filesystems of
// the kernel, if it may have them.
const DiskSocket = "/run/osbuild/api/disk"

// Filesystem is what a stage asks the engine to make.
type Filesystem struct {
	// Type is "ext4", "xfs" or "btrfs".
	Type string `json:"type"`
	// UUID and Label of it; no label is "".
	UUID  string `json:"uuid"`
	Label string `json:"label"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// DiskRequest is a message to DiskSocket: Make asks for a mounted filesystem, after
// which Finish, with the descriptor of a file, asks for its bytes in that file.
type DiskRequest struct {
	Make *Filesystem `json:"make,omitempty"`
	// Finish is the path of the first reply; Record is the encoded side record of
	// what is in the filesystem.
	Finish string `json:"finish,omitempty"`
	Record string `json:"record,omitempty"`
}

// DiskReply is the answer to a DiskRequest.
type DiskReply struct {
	// Path is where the filesystem is mounted.
	Path string `json:"path,omitempty"`
	// Error is why there is none, "" for success.
	Error string `json:"error,omitempty"`
}

// MakeFilesystem has the engine make and mount a filesystem, calls fill with the
// directory, and has the filesystem's bytes written to image. marks are what cannot
// be stored in the mount.
func MakeFilesystem(_ context.Context, fs Filesystem, marks record.Record, fill func(dir string) error, image *os.File) error {
	conn, err := jsoncomm.Dial(DiskSocket)
	if err != nil {
		return fmt.Errorf("ask the engine for a filesystem: %w", err)
	}
	defer conn.Close()
	reply, err := askDisk(conn, DiskRequest{Make: &fs})
	if err != nil {
		return err
	}
	if err := fill(reply.Path); err != nil {
		return err
	}
	var encoded bytes.Buffer
	if err := marks.Encode(&encoded); err != nil {
		return err
	}
	_, err = askDisk(conn, DiskRequest{Finish: reply.Path, Record: encoded.String()}, image)
	return err
}

func askDisk(conn *jsoncomm.Conn, request DiskRequest, files ...*os.File) (reply DiskReply, err error) {
	if err := conn.Send(request, files...); err != nil {
		return reply, fmt.Errorf("ask the engine for a filesystem: %w", err)
	}
	got, err := conn.Recv(&reply)
	for _, f := range got {
		f.Close()
	}
	if err != nil {
		return reply, fmt.Errorf("ask the engine for a filesystem: %w", err)
	}
	if reply.Error != "" {
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

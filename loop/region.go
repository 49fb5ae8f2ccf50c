package loop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Region says which file of a tree is a device, or which part of it: the options
// of org.osbuild.loopback.
type Region struct {
	Filename string `json:"filename"`
	// Start and Size count in sectors; no size is up to the file's end.
	Start uint64 `json:"start"`
	Size  uint64 `json:"size"`
	// SectorSize is in bytes.
	SectorSize uint32 `json:"sector-size"`
	PartScan   bool   `json:"partscan"`
	Lock       bool   `json:"lock"`
	ReadOnly   bool   `json:"read-only"`
}

// ParseRegion decodes the options.
func ParseRegion(options json.RawMessage) (*Region, error) {
	r := &Region{SectorSize: 512}
	if err := json.Unmarshal(options, r); err != nil {
		return nil, fmt.Errorf("decode options: %w", err)
	}
	if r.SectorSize == 0 {
		r.SectorSize = 512
	}
	return r, nil
}

// Open opens the region's file in the tree, whose symbolic links are followed
// inside, and returns where in it the region begins and how large it is, in
// bytes. The caller closes the file.
func (r *Region) Open(tree string) (file *os.File, start, size int64, err error) {
	path, err := securejoin.SecureJoin(tree, r.Filename)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("find %s in the tree: %w", r.Filename, err)
	}
	flags := os.O_RDWR
	if r.ReadOnly {
		flags = os.O_RDONLY // and the overlay copies nothing
	}
	file, err = os.OpenFile(path, flags|unix.O_NONBLOCK, 0) // a fifo must not keep us waiting
	if err != nil {
		return nil, 0, 0, fmt.Errorf("open %s of the tree: %w", r.Filename, errors.Unwrap(err))
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	st, err := file.Stat()
	if err != nil {
		return nil, 0, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, 0, fmt.Errorf("%s is no regular file of the tree", r.Filename)
	}
	unit := uint64(r.SectorSize)
	sectors := uint64(st.Size()) / unit
	if r.Start >= sectors || r.Size > sectors-r.Start {
		return nil, 0, 0, fmt.Errorf("%s has %d sectors: there are not %d from sector %d on", r.Filename, sectors, max(1, r.Size), r.Start)
	}
	start, size = int64(r.Start*unit), int64(r.Size*unit)
	if size == 0 {
		size = st.Size() - start
	}
	return file, start, size, nil
}

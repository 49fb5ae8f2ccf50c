package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// disk is an image QEMU can open.
type disk struct {
	path   string // absolute, so that QEMU sees no protocol in it
	format string // QEMU's name of it
}

// magics are the first bytes of formats, from the list of QEMU's block
// drivers and of common archives. An empty format is refused.
var magics = []struct {
	offset int
	bytes  string
	format string
	name   string
}{
	{0, "QFI\xfb\x00\x00\x00\x02", "qcow2", ""},
	{0, "QFI\xfb\x00\x00\x00\x03", "qcow2", ""},
	{0, "QFI\xfb", "", "a QCOW image of unknown version"},
	{0, "KDMV", "vmdk", ""},
	{0, "COWD", "vmdk", ""},
	{0, "# Disk DescriptorFile", "vmdk", ""},
	{0x40, "\x7f\x10\xda\xbe", "vdi", ""},
	{0, "conectix", "vpc", ""},
	{0, "vhdxfile", "vhdx", ""},
	{0, "\xfd7zXZ\x00", "", "compressed with xz"},
	{0, "\x1f\x8b\x08", "", "compressed with gzip"},
	{0, "\x28\xb5\x2f\xfd", "", "compressed with zstd"},
	{0, "BZh", "", "compressed with bzip2"},
	{257, "ustar", "", "a tar archive"},
}

// openDisk finds out the format of the image at path.
func openDisk(path string) (d disk, err error) {
	if d.path, err = filepath.Abs(path); err != nil {
		return disk{}, fmt.Errorf("cannot find image %s: %w", path, err)
	}
	info, err := os.Stat(d.path)
	if err != nil {
		return disk{}, fmt.Errorf("cannot read image: %w", err)
	}
	// Only what has a size is opened: a pipe would block.
	if !info.Mode().IsRegular() && info.Mode().Type() != os.ModeDevice {
		return disk{}, fmt.Errorf("cannot boot %s: it is no file or disk", path)
	}
	f, err := os.Open(d.path)
	if err != nil {
		return disk{}, fmt.Errorf("cannot read image: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return disk{}, fmt.Errorf("cannot read image %s: %w", path, err)
	}
	if d.format, err = detect(f, size); err != nil {
		return disk{}, fmt.Errorf("cannot boot %s: %w", path, err)
	}
	return d, nil
}

// detect names the format of an image of size bytes; what it does not know is raw.
func detect(r io.ReaderAt, size int64) (string, error) {
	if size == 0 {
		return "", errors.New("it is empty")
	}
	head := make([]byte, min(size, 512))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", fmt.Errorf("cannot read its start: %w", err)
	}
	for _, m := range magics {
		if m.offset > len(head) || !bytes.HasPrefix(head[m.offset:], []byte(m.bytes)) {
			continue
		}
		if m.format == "" {
			return "", fmt.Errorf("it is %s; unpack or convert it to a disk image first", m.name)
		}
		return m.format, nil
	}
	// A VHD of fixed size has only a footer.
	if size >= 1024 {
		foot := make([]byte, 8)
		if _, err := r.ReadAt(foot, size-512); err != nil && err != io.EOF {
			return "", fmt.Errorf("cannot read its end: %w", err)
		}
		if string(foot) == "conectix" {
			return "vpc", nil
		}
	}
	return "raw", nil
}

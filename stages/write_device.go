package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ossify/ossify/module"
)

type writeDeviceOptions struct {
	From string `json:"from"`
}

// writeDevice writes a file of an input to the start of the device.
func writeDevice(_ context.Context, args *module.Args, options writeDeviceOptions) (err error) {
	from, err := parseLocation(args, options.From)
	if err != nil {
		return err
	}
	path, err := from.target()
	if err != nil {
		return err
	}
	node, err := devicePath(args, "device")
	if err != nil {
		return err
	}
	src, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", options.From, err)
	}
	defer src.Close()
	dst, err := os.OpenFile(node, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write device: %w", err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := fitsDevice(src, dst); err != nil {
		return fmt.Errorf("write %s to device: %w", options.From, err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("write %s to device: %w", options.From, err)
	}
	return dst.Sync()
}

// fitsDevice refuses a file that is larger than the device. A device's size is
// where it ends; stat says 0.
func fitsDevice(file, device *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file")
	}
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if info.Size() > size {
		return fmt.Errorf("the file has %d bytes, the device only %d: enlarge the device or its partition", info.Size(), size)
	}
	_, err = device.Seek(0, io.SeekStart)
	return err
}

package qcow2

import (
	"fmt"
	"os"
)

// bufferSize is how many bytes of neighbouring small writes are gathered.
const bufferSize = 1 << 20

// output gathers neighbouring writes to a file into large ones.
type output struct {
	file *os.File
	buf  []byte
	off  int64 // where buf belongs
}

func newOutput(file *os.File) *output {
	return &output{file: file, buf: make([]byte, 0, bufferSize)}
}

// writeAt writes p at off, at once or later; it does not keep p.
func (o *output) writeAt(p []byte, off int64) error {
	if len(o.buf) > 0 && (off != o.off+int64(len(o.buf)) || len(o.buf)+len(p) > cap(o.buf)) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if len(p) > cap(o.buf)/2 {
		return o.write(p, off)
	}
	if len(o.buf) == 0 {
		o.off = off
	}
	o.buf = append(o.buf, p...)
	return nil
}

// flush writes what was gathered.
func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.write(o.buf, o.off)
	o.buf = o.buf[:0]
	return err
}

func (o *output) write(p []byte, off int64) error {
	if _, err := o.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("cannot store %d bytes at offset %d: %w", len(p), off, err)
	}
	return nil
}

package wire

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Send sends a frame and duplicates of the descriptors, which stay the caller's.
func Send(c *net.UnixConn, frame []byte, files ...int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err := c.WriteMsgUnix(frame, rights, nil)
	return err
}

// Receive returns the next frame and its descriptors, which the caller closes. For
// a frame that is too large or has too many descriptors it returns its beginning
// and an *Error; all descriptors are closed then. Any other error is the end of
// the connection.
func Receive(c *net.UnixConn) (frame []byte, files []int, err error) {
	frame = make([]byte, MaxFrame+1)
	control := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, controls, flags, _, err := c.ReadMsgUnix(frame, control)
	frame = frame[:max(n, 0)]
	messages, parseErr := unix.ParseSocketControlMessage(control[:max(controls, 0)])
	for _, m := range messages {
		fds, rightsErr := unix.ParseUnixRights(&m)
		files = append(files, fds...)
		parseErr = errors.Join(parseErr, rightsErr)
	}
	switch {
	case err != nil:
	case n > MaxFrame || flags&unix.MSG_TRUNC != 0:
		err = Errorf(syscall.EINVAL, "a frame has at most %d bytes", MaxFrame)
	case parseErr != nil || len(files) > MaxFiles || flags&unix.MSG_CTRUNC != 0:
		err = Errorf(syscall.EINVAL, "a frame has at most %d descriptors", MaxFiles)
	default:
		return frame, files, nil
	}
	CloseAll(files)
	return frame, nil, err
}

// CloseAll closes descriptors.
func CloseAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// FileConn makes a connection of a descriptor, which it takes over.
func FileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok {
		return u, nil
	}
	c.Close()
	return nil, errors.New("a descriptor is no unix socket")
}

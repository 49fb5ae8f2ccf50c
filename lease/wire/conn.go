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
		files, parseErr = append(files, fds...), errors.Join(parseErr, rightsErr)
	}
	if err == nil && (n > MaxFrame || parseErr != nil || len(files) > MaxFiles || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0) {
		err = Errorf(syscall.EINVAL, "a frame has at most %d bytes and %d descriptors", MaxFrame, MaxFiles)
	}
	if err != nil {
		CloseAll(files)
		return frame, nil, err
	}
	return frame, files, nil
}

// SendReply sends a reply, and closes the descriptors beside it, which it takes over.
func SendReply(c *net.UnixConn, frame []byte, files ...int) error {
	err := Send(c, frame, files...)
	CloseAll(files)
	if err == nil && len(files) > 0 {
		err = Send(c, frame)
	}
	return err
}

// ReceiveReply receives a reply. Its descriptors, which the caller closes, are nobody
// else's anymore.
func ReceiveReply(c *net.UnixConn) (frame []byte, files []int, err error) {
	frame, files, err = Receive(c)
	if err == nil && len(files) > 0 {
		if _, _, err = Receive(c); err != nil {
			CloseAll(files)
		}
	}
	return frame, files, err
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
	if u, ok := c.(*net.UnixConn); ok {
		return u, nil
	}
	return nil, errors.Join(errors.New("a descriptor is no unix socket"), err)
}

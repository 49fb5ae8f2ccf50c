// Package jsoncomm carries JSON messages and file descriptors over
// SOCK_SEQPACKET unix sockets, in the wire form of osbuild's jsoncomm: one
// packet is one JSON document, descriptors travel as SCM_RIGHTS, and a document
// too large for a packet is replaced by a marker and put into a file whose
// descriptor comes first.
package jsoncomm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// MaxMessage is the largest document, in bytes, that Recv accepts unless the
// connection has a limit of its own.
const MaxMessage = 64 << 20

// maxFDs is the kernel's limit of descriptors in one packet (SCM_MAX_FD).
const maxFDs = 253

// maxPacket is the size, in bytes, from which a document travels in a file.
const maxPacket = 64 << 10

var viaFile = []byte("<args-via-fd>")

// ErrEmpty is what Recv returns for a packet without content, which is no message.
var ErrEmpty = errors.New("empty message")

// Conn is one end of a connection. It is not safe for concurrent use.
type Conn struct {
	// Limit is the largest document, in bytes, that Recv accepts.
	Limit int
	fd    int
	// buf and oob are for Recv.
	buf, oob []byte
}

// New wraps a connected SOCK_SEQPACKET socket; Close closes it.
func New(fd int) *Conn {
	unix.CloseOnExec(fd)
	return &Conn{fd: fd, Limit: MaxMessage}
}

// Pair returns a connected pair: our end, and the other end as a file to be
// inherited by a child. The caller closes both.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return New(fds[0]), os.NewFile(uintptr(fds[1]), "service"), nil
}

// Dial connects to the socket at path.
func Dial(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return New(fd), nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// FD returns the socket's descriptor, still owned by c.
func (c *Conn) FD() int { return c.fd }

// Shutdown ends both directions, which wakes a blocked Recv.
func (c *Conn) Shutdown() { _ = unix.Shutdown(c.fd, unix.SHUT_RDWR) }

// Wait returns when Recv would not block: there is a message, or the peer is gone.
func (c *Conn) Wait() error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("wait for message: %w", err)
		}
	}
}

// hungUp says whether the peer is gone.
func (c *Conn) hungUp() bool {
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return n != 0
		}
	}
}

// Send sends v and copies of the descriptors; the caller keeps its own.
func (c *Conn) Send(v any, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	fds := make([]int, 0, len(files)+1)
	if len(data) > maxPacket {
		f, err := payloadFile(data)
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
		data = viaFile
	}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if len(fds) > maxFDs {
		return fmt.Errorf("message with %d descriptors, at most %d are allowed", len(fds), maxFDs)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(c.fd, data, oob, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send message: %w", err)
		}
		return nil
	}
}

func payloadFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("jsoncomm/payload", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "payload")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("write message: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("rewind message: %w", err)
	}
	return f, nil
}

// Recv receives the next message into v and returns the descriptors that came
// with it, which the caller closes. It returns io.EOF when the peer is gone.
func (c *Conn) Recv(v any) ([]*os.File, error) {
	if c.buf == nil {
		c.buf, c.oob = make([]byte, 2*maxPacket), make([]byte, unix.CmsgSpace(maxFDs*4))
	}
	buf, oob := c.buf, c.oob
	for {
		n, _, err := c.recvmsg(buf, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err != nil {
			return nil, err
		}
		if n > c.Limit {
			return nil, fmt.Errorf("message of %d bytes, at most %d are allowed", n, c.Limit)
		}
		if n <= len(buf) {
			break
		}
		buf = make([]byte, n)
	}
	n, oobn, err := c.recvmsg(buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	files, err := rights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if n == 0 {
		CloseAll(files)
		if len(files) == 0 && c.hungUp() {
			return nil, io.EOF
		}
		return nil, ErrEmpty
	}
	data := buf[:n]
	if bytes.Equal(data, viaFile) {
		if len(files) == 0 {
			return nil, errors.New("message announces a payload file but carries no descriptor")
		}
		data, err = readPayload(files[0], c.Limit)
		files[0].Close()
		files = files[1:]
		if err != nil {
			CloseAll(files)
			return nil, fmt.Errorf("read message: %w", err)
		}
	}
	if err := json.Unmarshal(data, v); err != nil {
		CloseAll(files)
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return files, nil
}

// readPayload reads a document that travelled in a file. The sender may be a
// stage: a pipe that nobody writes to, or a file of a FUSE filesystem of its own,
// would block us for ever, so only files in memory are read. Those have seals,
// and asking for them asks no filesystem.
func readPayload(f *os.File, limit int) ([]byte, error) {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil {
		return nil, errors.New("the payload is no file in memory (memfd_create)")
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > int64(limit) {
		return nil, fmt.Errorf("payload of %d bytes, at most %d are allowed", info.Size(), limit)
	}
	// The sender shares the file's position, so it is not relied upon.
	data, err := io.ReadAll(io.NewSectionReader(f, 0, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("payload of more than %d bytes", limit)
	}
	return data, err
}

func (c *Conn) recvmsg(p, oob []byte, flags int) (n, oobn int, err error) {
	for {
		n, oobn, rflags, _, err := unix.Recvmsg(c.fd, p, oob, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET:
			return 0, 0, io.EOF
		case err != nil:
			return 0, 0, fmt.Errorf("receive message: %w", err)
		case flags&unix.MSG_PEEK == 0 && rflags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			if files, err := rights(oob[:oobn]); err == nil {
				CloseAll(files)
			}
			return 0, 0, errors.New("message was truncated")
		}
		return n, oobn, nil
	}
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes files that nobody wants.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

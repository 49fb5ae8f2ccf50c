// Package broker is the half of ossify-loop that clients talk to. It has no rights:
// it decodes requests, and gives those that make sense to the mounter, who decodes
// them again. It sees to it that nobody keeps others waiting.
package broker

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long a connection may go without a lease, and a client may take to
	// receive a reply.
	patience = 10 * time.Second
	// connections are how many there may be at once.
	connections = 1024
)

// Serve accepts connections until the listener fails or the mounter, at the other end
// of control, is gone.
func Serve(listener *net.UnixListener, control *net.UnixConn) error {
	gone := make(chan error, 2)
	go func() {
		_, _, err := wire.Receive(control) // says nothing here
		gone <- fmt.Errorf("the mounter has ended: %w", err)
	}()
	go func() {
		for free := make(chan struct{}, connections); ; {
			free <- struct{}{}
			client, err := listener.AcceptUnix()
			if err != nil {
				gone <- fmt.Errorf("accept connections: %w", err)
				return
			}
			go func() {
				serve(client, control)
				client.Close()
				<-free
			}()
		}
	}()
	return <-gone
}

// serve serves a connection to its end. What the mounter says first is who the client is,
// or why they are nobody.
func serve(client, control *net.UnixConn) {
	channel, err := open(client, control)
	if err != nil {
		return
	}
	defer channel.Close()
	answer, results, err := wire.ReceiveReply(channel)
	if err == nil {
		_, _, err = wire.DecodeReply(answer)
	}
	if send(client, answer, results...) != nil || err != nil || client.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	for {
		frame, files, err := wire.Receive(client)
		sequence, r, decodeErr := wire.Decode(frame, len(files))
		switch bad := new(wire.Error); {
		case errors.As(err, &bad):
			answer, results, err = wire.Reply(sequence, 0, bad), nil, nil
		case err == nil && decodeErr != nil:
			answer, results = wire.Reply(sequence, 0, decodeErr), nil
		case err == nil:
			if err = wire.Send(channel, frame, files...); err == nil {
				answer, results, err = wire.ReceiveReply(channel)
			}
		}
		wire.CloseAll(files)
		if err != nil || send(client, answer, results...) != nil {
			return
		}
		_, create := r.(*wire.Create)
		if _, _, refused := wire.DecodeReply(answer); create && refused == nil {
			_ = client.SetReadDeadline(time.Time{}) // who has a lease may be silent
		}
	}
}

// open gives the client's connection to the mounter, and returns the channel for its
// requests.
func open(client, control *net.UnixConn) (channel *net.UnixConn, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	if channel, err = wire.FileConn(pair[0]); err != nil {
		return nil, err
	}
	raw, err := client.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) { err = wire.Send(control, []byte{0}, int(fd), pair[1]) })
		err = errors.Join(err, controlErr)
	}
	return channel, err
}

// send sends a reply to a client, who may not take their time, and closes the descriptors.
func send(client *net.UnixConn, frame []byte, files ...int) error {
	_ = client.SetWriteDeadline(time.Now().Add(patience))
	return wire.SendReply(client, frame, files...)
}

// Package broker is the half of ossify-loop that clients talk to. It has no rights:
// it decodes requests, and gives those that make sense to the mounter, who decodes
// them again. It sees to it that nobody keeps others waiting.
package broker

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/ossify/ossify/lease/confine"
	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// patience is how long a connection may go without a lease, and a client may take to
// receive a reply; connections are how many there may be at once.
const patience, connections = 10 * time.Second, 1024

// Serve accepts connections at the listener that is one descriptor until the mounter, at the
// other end of the other one, is gone.
func Serve(listenerFD, controlFD int) error {
	l, err := net.FileListener(os.NewFile(uintptr(listenerFD), "listener"))
	control, controlErr := wire.FileConn(controlFD)
	if err = errors.Join(err, controlErr, confine.BrokerFilter().Install()); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	go func() {
		_, _, _ = wire.Receive(control) // it says nothing here
		l.Close()
	}()
	for free := make(chan struct{}, connections); ; {
		free <- struct{}{}
		client, err := l.(*net.UnixListener).AcceptUnix()
		if err != nil {
			return fmt.Errorf("accept connections: %w", err)
		}
		go func() {
			serve(client, control)
			client.Close()
			<-free
		}()
	}
}

// serve serves a connection to its end. What the mounter says first is who the client is,
// or why they are nobody.
func serve(client, control *net.UnixConn) {
	channel, err := open(client, control)
	if err != nil {
		return
	}
	defer channel.Close()
	answer, results, err := wire.Receive(channel)
	if err == nil {
		_, err = wire.DecodeReply(answer)
	}
	if send(client, answer, results) != nil || err != nil || client.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	for {
		frame, files, err := wire.Receive(client)
		if bad := new(wire.Error); err != nil && !errors.As(err, &bad) {
			return
		}
		r, decodeErr := wire.Decode(frame, len(files))
		if err = cmp.Or(err, decodeErr); err != nil {
			answer, results, err = wire.Reply(0, err), nil, nil
		} else if err = wire.Send(channel, frame, files...); err == nil {
			answer, results, err = wire.Receive(channel)
		}
		wire.CloseAll(files)
		if err != nil || send(client, answer, results) != nil {
			return
		}
		_, create := r.(*wire.Create)
		if _, refused := wire.DecodeReply(answer); create && refused == nil {
			_ = client.SetReadDeadline(time.Time{}) // who has a lease may be silent
		}
	}
}

// open gives the client's connection to the mounter, and returns the channel for its
// requests.
func open(client, control *net.UnixConn) (channel *net.UnixConn, err error) {
	channel, other, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(other)
	raw, err := client.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) { err = wire.Send(control, []byte{0}, int(fd), other) })
		err = errors.Join(err, controlErr)
	}
	return channel, err
}

// send sends a reply to a client, who may not take their time, and closes the descriptors.
func send(client *net.UnixConn, frame []byte, files []int) error {
	defer wire.CloseAll(files)
	_ = client.SetWriteDeadline(time.Now().Add(patience))
	return wire.Send(client, frame, files...)
}

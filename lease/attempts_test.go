package lease

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// TestAttempts makes the attempts of somebody who wants more than a lease, by
// the numbers that docs/helper.md has.
func TestAttempts(t *testing.T) {
	h := newHelper(t)
	before := h.descriptors()
	for _, a := range []struct {
		name   string
		nest   bool
		client string
		extra  []string
	}{
		{"1 clear flags", true, "flags", nil},
		{"1 clear flags of a read-only mount", true, "flags", []string{"READONLY=1"}},
		{"3 open a device node", true, "node", nil},
		{"15 subordinate user", true, "subordinate", nil},
		{"16 descriptors", false, "descriptors", nil},
		{"16 noise", false, "noise", nil},
		{"17 backing of the client's own", false, "descriptors", []string{"BACKING=1"}},
		{"18 strings and options", false, "strings", nil},
		{"19 maps", false, "maps", nil},
		{"20 reach the backing file", true, "backing", []string{"STAGING=" + filepath.Join(h.dir, "staging"), fmt.Sprint("HELPER=", h.cmd.Process.Pid)}},
		{"20 reach the backing file from outside", false, "backing", []string{"STAGING=" + filepath.Join(h.dir, "staging"), fmt.Sprint("HELPER=", h.cmd.Process.Pid)}},
		{"21 export while mounted", true, "busy", nil},
		{"22 quota", false, "quota", nil},
		{"22 disconnects in the middle of a request", false, "vanish", nil},
		{"22 replies that are not read", false, "deaf", nil},
	} {
		t.Run(a.name, func(t *testing.T) {
			h.t = t
			h.as(alice, a.nest, a.client, a.extra...)
		})
	}
	h.t = t

	t.Run("15 outside the group", func(t *testing.T) {
		h.t = t
		nobody := user{"", 61999, 0}
		h.as(eve, false, "refused", "WANT=not in the group")
		h.as(nobody, false, "refused", "WANT=is nobody's")
		h.launchAs(nobody, &syscall.Credential{Uid: alice.sub + 5, Gid: groupID}, false, "refused", "WANT=is nobody's").end()
		// Without the group as the process's own, the socket is closed.
		h.launchAs(eve, &syscall.Credential{Uid: eve.id, Gid: eve.id}, false, "refused", "WANT=permission denied").end()
	})
	t.Run("15 a subordinate user who has a name", func(t *testing.T) {
		h.t = t
		h.addUser(fmt.Sprintf("carol:x:%d:61004::/:/bin/sh", bob.sub+7), "carol")
		h.launchAs(user{}, &syscall.Credential{Uid: bob.sub + 7, Gid: groupID}, false, "refused", "WANT=is a subordinate one of bob").end()
	})
	t.Run("15 by the first group", func(t *testing.T) {
		h.t = t
		h.addUser(fmt.Sprintf("frank:x:61005:%d::/:/bin/sh", groupID), "")
		h.launchAs(user{}, &syscall.Credential{Uid: 61005, Gid: groupID}, false, "taken").end()
		h.addUser("gina:x:61006:0::/:/bin/sh", "gina")
		h.launchAs(user{}, &syscall.Credential{Uid: 61006, Gid: groupID}, false, "refused", "WANT=gina has the group id 0").end()
	})
	t.Run("15 a namespace of somebody else", func(t *testing.T) {
		h.t = t
		for _, c := range []struct {
			want   string
			flags  uintptr
			mapped []syscall.SysProcIDMap
		}{
			{"namespace of somebody else", 0, []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(alice.id), Size: 1}, {ContainerID: 1, HostID: 0, Size: 1}}},
			{"namespace of somebody else", 0, []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(alice.id), Size: 1}, {ContainerID: 1, HostID: int(bob.sub), Size: 1}}},
			// Containers, and attempt 8: stages of a build, who have the ids of their user.
			{"in a container, or in a stage", syscall.CLONE_NEWPID, []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(alice.id), Size: 1}}},
		} {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{roleEnv + "=client", clientEnv + "=refused", socketEnv + "=" + h.socket, "WANT=" + c.want}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | c.flags,
				UidMappings: c.mapped,
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: groupID, Size: 1}},
				Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	t.Run("8 a nested namespace of a user's own", func(t *testing.T) {
		h.t = t
		h.as(alice, true, "inside")
	})
	t.Run("22 a thousand leases", func(t *testing.T) {
		h.t = t
		h.idle([2]int{1 << 20, 1 << 20}) // earlier leases are dropped
		flood := h.launch(alice, false, "flood")
		if got := flood.line(); got != "16 leases" {
			t.Errorf("alice has %s", got)
		}
		h.as(bob, true, "busy") // is not kept waiting
		flood.end()
	})
	t.Run("22 slow clients", func(t *testing.T) {
		h.t = t
		h.as(alice, false, "silent")
	})
	h.t = t
	h.idle(before)
}

// addUser adds a line to passwd and a member to the group.
func (h *helper) addUser(line, name string) {
	h.t.Helper()
	for file, edit := range map[string]func(string) string{
		"passwd": func(s string) string { return s + line + "\n" },
		"group":  func(s string) string { return strings.TrimSuffix(strings.TrimSpace(s)+","+name, ",") + "\n" },
	} {
		path := filepath.Join(h.dir, "etc", file) // where the helper has its /etc
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(edit(string(data))), 0o644)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// broker is the process number of the broker.
func (h *helper) broker() int {
	h.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", h.cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, word := range strings.Fields(string(data)) {
		line, _ := os.ReadFile("/proc/" + word + "/cmdline")
		if strings.Contains(string(line), "broker") {
			n, _ := strconv.Atoi(word)
			return n
		}
	}
	h.t.Fatal("the helper has no broker")
	return 0
}

// descriptors counts what both processes have open.
func (h *helper) descriptors() [2]int {
	h.t.Helper()
	var n [2]int
	for i, pid := range []int{h.cmd.Process.Pid, h.broker()} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			h.t.Fatal(err)
		}
		n[i] = len(entries)
	}
	return n
}

// idle fails the test if a lease or a descriptor is left, after a moment.
func (h *helper) idle(before [2]int) {
	h.t.Helper()
	var now [2]int
	status := ""
	for range 100 {
		status = h.status()
		// The connection that has asked is closed a moment later.
		time.Sleep(50 * time.Millisecond)
		if now = h.descriptors(); now[0] <= before[0] && now[1] <= before[1] && !strings.Contains(status, "MiB  ") {
			return
		}
	}
	h.t.Errorf("descriptors were %v, now %v; status:\n%s", before, now, status)
}

// status is what "ossify-loop status" tells root.
func (h *helper) status() string {
	h.t.Helper()
	path, err := program()
	if err != nil {
		h.t.Fatal(err)
	}
	return run(h.t, path, "status", "--listen="+h.socket)
}

// flagsClient tries to take the flags of its mount away.
func flagsClient() error {
	o := MountOptions{ReadOnly: os.Getenv("READONLY") != ""}
	c, dir, err := mounted(wire.Ext4, MountOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := unmount(dir); err != nil {
		return err
	}
	o.UIDs, o.GIDs = me().ids(), me().ids()
	f, err := c.Mount(context.Background(), 0, o)
	if err != nil {
		return err
	}
	if err := clearFlags(int(f.Fd()), "", o.ReadOnly); err != nil {
		return fmt.Errorf("detached: %w", err)
	}
	if err := attach(f, dir); err != nil {
		return err
	}
	if err := clearFlags(unix.AT_FDCWD, dir, o.ReadOnly); err != nil {
		return fmt.Errorf("attached: %w", err)
	}
	for flags := range uintptr(8) {
		flags |= unix.MS_REMOUNT | unix.MS_BIND // RDONLY, NOSUID, NODEV are 1, 2, 4
		all := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
		if o.ReadOnly {
			all |= unix.MS_RDONLY
		}
		if flags&all == all {
			continue
		}
		if err := want(unix.EPERM, unix.Mount("", dir, "", flags, "")); err != nil {
			return fmt.Errorf("remount with %#x: %w", flags, err)
		}
		if err := unix.Mount("", dir, "", flags&^unix.MS_BIND, ""); err == nil {
			return fmt.Errorf("remount of the filesystem with %#x succeeds", flags)
		}
	}
	bind := dir + "-bind"
	if err := errors.Join(os.Mkdir(bind, 0o755), unix.Mount(dir, bind, "", unix.MS_BIND, "")); err != nil {
		return err
	}
	if err := clearFlags(unix.AT_FDCWD, bind, o.ReadOnly); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	copied, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	if err := clearFlags(copied, "", o.ReadOnly); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nested("DIR="+dir, "NEXT=flags")
}

// clearFlags fails if one of the flags can be cleared.
func clearFlags(at int, path string, readOnly bool) error {
	flags := []uint64{unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if readOnly {
		flags = append(flags, unix.MOUNT_ATTR_RDONLY)
	}
	for _, flag := range flags {
		attr := unix.MountAttr{Attr_clr: flag}
		if err := want(unix.EPERM, unix.MountSetattr(at, path, unix.AT_EMPTY_PATH, &attr)); err != nil {
			return fmt.Errorf("clear %#x: %w", flag, err)
		}
	}
	return nil
}

// nested runs the client "nested" in a namespace within the client's.
func nested(extra ...string) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), clientEnv+"=nested"), extra...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("in a nested namespace: %w: %s", err, out)
	}
	return nil
}

func nestedClient() error {
	dir := os.Getenv("DIR")
	if os.Getenv("NEXT") == "node" {
		return openNode(filepath.Join(dir, "node"))
	}
	return clearFlags(unix.AT_FDCWD, dir, os.Getenv("READONLY") != "")
}

// nodeClient tries device nodes.
func nodeClient() error {
	c, dir, err := mounted(wire.Ext4, MountOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	node := filepath.Join(dir, "node")
	for _, n := range []struct{ mode, dev uint64 }{{unix.S_IFCHR, unix.Mkdev(1, 3)}, {unix.S_IFBLK, unix.Mkdev(7, 0)}} {
		if err := want(unix.EPERM, unix.Mknod(node, uint32(n.mode|0o666), int(n.dev))); err != nil {
			return fmt.Errorf("make a device: %w", err)
		}
	}
	// Anybody can make overlayfs' whiteouts; to open one fails otherwise if devices
	// can be opened.
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, 0); err != nil {
		return err
	}
	if err := openNode(node); err != nil {
		return err
	}
	return nested("DIR="+dir, "NEXT=node")
}

func openNode(path string) error {
	_, err := os.Open(path)
	return want(unix.EACCES, err)
}

// refusedClient is refused before it has said anything.
func refusedClient() error {
	c, err := dial()
	if err == nil {
		err = c.Create(context.Background(), 1<<20)
	}
	if err == nil || !strings.Contains(err.Error(), os.Getenv("WANT")) {
		return fmt.Errorf("got error %v, want %q", err, os.Getenv("WANT"))
	}
	return nil
}

// takenClient takes a lease.
func takenClient() error {
	c, err := dial()
	if err == nil {
		err = c.Create(context.Background(), 1<<20)
	}
	return err
}

// insideClient starts a process as a build starts a stage.
func insideClient() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), clientEnv+"=refused", nestEnv+"=", "WANT=in a container, or in a stage")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// subordinateClient becomes another user of its namespace, who is still in the group.
func subordinateClient() error {
	if err := syscall.Setresuid(5, 5, 5); err != nil {
		return err
	}
	os.Setenv("WANT", "is nobody's")
	return refusedClient()
}

// rawConn is a client that sends what it likes.
type rawConn struct{ *net.UnixConn }

func dialRaw() (rawConn, error) {
	c, err := net.Dial("unixpacket", os.Getenv(socketEnv))
	if err != nil {
		return rawConn{}, err
	}
	_, _, err = wire.Receive(c.(*net.UnixConn)) // reply 0
	return rawConn{c.(*net.UnixConn)}, err
}

// ask sends a frame and returns what it came to.
func (c rawConn) ask(frame []byte, files ...int) error {
	if err := wire.Send(c.UnixConn, frame, files...); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	frame, received, err := wire.Receive(c.UnixConn)
	wire.CloseAll(received)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	_, err = wire.DecodeReply(frame)
	return err
}

// descriptorsClient sends descriptors that nobody wants.
func descriptorsClient() error {
	c, err := dialRaw()
	if err != nil {
		return err
	}
	if err := c.ask(wire.Encode(&wire.Create{Size: 64 << 20})); err != nil {
		return err
	}
	if err := c.ask(wire.Encode(&wire.Partition{Size: 8 << 20, SectorSize: 512})); err != nil {
		return err
	}
	kinds, err := descriptorKinds()
	if err != nil {
		return err
	}
	for name, fd := range kinds {
		if os.Getenv("BACKING") != "" {
			// One or two beside what makes or mounts filesystems.
			for _, r := range []wire.Request{
				&wire.Create{Size: 1 << 20}, &wire.Partition{Size: 1 << 20, SectorSize: 512},
				&wire.Mkfs{Type: wire.Ext4, UUID: [16]byte{1}}, goodMount(), &wire.Export{}, &wire.Sync{},
			} {
				for _, files := range [][]int{{fd}, {fd, fd}} {
					if err := want(unix.EINVAL, c.ask(wire.Encode(r), files...)); err != nil {
						return fmt.Errorf("%T with %d of %s: %w", r, len(files), name, err)
					}
				}
			}
			continue
		}
		many := make([]int, 17)
		for i := range many {
			many[i] = fd
		}
		for _, files := range [][]int{{}, {fd}, {fd, fd}, {fd, fd, fd}, many} {
			if err := want(unix.EINVAL, c.ask(wire.Encode(&wire.Label{}), files...)); err != nil && (name != "sealed" || len(files) != 1) {
				return fmt.Errorf("LABEL with %d of %s: %w", len(files), name, err)
			}
		}
	}
	// An index of -1, and others that are none.
	list := kinds["sealed"]
	for _, index := range []uint8{1, 32, 127, 128, 255} {
		for _, r := range []struct {
			wire.Request
			files []int
		}{
			{&wire.Mkfs{Index: index, Type: wire.Ext4, UUID: [16]byte{1}}, nil}, {indexed(index), nil}, {&wire.Label{Index: index}, []int{list}},
			{&wire.Sync{Index: index}, nil}, {&wire.Export{Index: index}, nil},
		} {
			if err := want(unix.EINVAL, c.ask(wire.Encode(r.Request), r.files...)); err != nil {
				return fmt.Errorf("%T of partition %d: %w", r.Request, index, err)
			}
		}
	}
	// Frames that are none.
	good := wire.Encode(&wire.Sync{})
	for name, frame := range map[string][]byte{
		"large": make([]byte, 5000), "exactly too large": append(good, make([]byte, 4097-len(good))...),
		"short": good[:1], "cut": good[:len(good)-1], "long": append(good[:len(good):len(good)], 0),
		"verb": {1, 99}, "version": {9, 6, 0}, "one verb too many": {1, 10},
	} {
		if err := want(unix.EINVAL, c.ask(frame)); err != nil {
			return fmt.Errorf("frame %s: %w", name, err)
		}
	}
	// What was never made is not mounted, and the lease still works.
	if err := want(unix.EPERM, c.ask(wire.Encode(goodMount()))); err != nil {
		return fmt.Errorf("mount without mkfs: %w", err)
	}
	return c.ask(wire.Encode(&wire.Sync{}))
}

// descriptorKinds opens one of each.
func descriptorKinds() (map[string]int, error) {
	dir, err := os.MkdirTemp("", "kinds")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "image")
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(image, make([]byte, 4096), 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		return nil, err
	}
	kinds := map[string]int{}
	for name, open := range map[string]func() (int, error){
		"image":     func() (int, error) { return unix.Open(image, unix.O_RDWR, 0) },
		"fifo":      func() (int, error) { return unix.Open(fifo, unix.O_RDWR, 0) },
		"path":      func() (int, error) { return unix.Open(image, unix.O_PATH, 0) },
		"directory": func() (int, error) { return unix.Open(dir, unix.O_DIRECTORY, 0) },
		"namespace": func() (int, error) { return unix.Open("/proc/self/ns/user", unix.O_RDONLY, 0) },
		"memfd":     func() (int, error) { return unix.MemfdCreate("m", unix.MFD_ALLOW_SEALING) },
		"socket":    func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) },
		"sealed": func() (int, error) {
			fd, err := unix.MemfdCreate("m", unix.MFD_ALLOW_SEALING)
			if err == nil {
				_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
			}
			return fd, err
		},
	} {
		if kinds[name], err = open(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return kinds, nil
}

func goodMount() *wire.Mount { return indexed(0) }

func indexed(index uint8) *wire.Mount {
	r := &wire.Mount{Index: index}
	copy(r.UIDs[:], me().ids())
	copy(r.GIDs[:], me().ids())
	return r
}

// stringsClient asks for filesystems that there are not.
func stringsClient() error {
	c, err := dialRaw()
	if err != nil {
		return err
	}
	if err := errors.Join(c.ask(wire.Encode(&wire.Create{Size: 64 << 20})), c.ask(wire.Encode(&wire.Partition{Size: 32 << 20, SectorSize: 512}))); err != nil {
		return err
	}
	for _, label := range []string{"-O", "a,b", "a\x00b", "a\nb", "\x1b[31m", "a\xff", strings.Repeat("x", 17)} {
		r := &wire.Mkfs{Type: wire.Ext4, UUID: [16]byte{1}}
		copy(r.Label[:], label)
		if err := want(unix.EINVAL, c.ask(wire.Encode(r))); err != nil {
			return fmt.Errorf("label %q: %w", label, err)
		}
	}
	for _, r := range []*wire.Mkfs{
		{Type: 0, UUID: [16]byte{1}}, {Type: 4, UUID: [16]byte{1}}, {Type: 255, UUID: [16]byte{1}},
		{Type: wire.Ext4}, {Type: wire.Ext4, UUID: [16]byte{1}, Set: 1 << 15}, {Type: wire.Ext4, UUID: [16]byte{1}, On: 1},
		{Type: wire.XFS, UUID: [16]byte{1}, Groups: 1 << 31}, {Type: wire.Btrfs, UUID: [16]byte{1}, Set: wire.Verity},
	} {
		if err := want(unix.EINVAL, c.ask(wire.Encode(r))); err != nil {
			return fmt.Errorf("%+v: %w", r, err)
		}
	}
	for _, name := range []string{"../x", "/x", "x,suid", "a\nb", "a/../../b", ".", "a\\b"} {
		r := goodMount()
		copy(r.Subvolume[:], name)
		if err := want(unix.EINVAL, c.ask(wire.Encode(r))); err != nil {
			return fmt.Errorf("subvolume %q: %w", name, err)
		}
	}
	return nil
}

// mapsClient asks for mounts with ids that are not its own.
func mapsClient() error {
	c, err := leased(wire.Ext4)
	if err != nil {
		return err
	}
	defer c.Close()
	good := me().ids()
	for name, m := range map[string][]wire.Range{
		"root":              {{Disk: 0, Host: 0, Count: 1}},
		"root among others": {{Disk: 0, Host: alice.id, Count: 1}, {Disk: 1, Host: 0, Count: 1}},
		"initial namespace": {{Disk: 0, Host: 0, Count: 1<<32 - 2}},
		"everybody else":    {{Disk: 1, Host: 1, Count: 1<<32 - 3}},
		"another's range":   {{Disk: 0, Host: bob.sub, Count: 10}},
		"another user":      {{Disk: 0, Host: bob.id, Count: 1}},
		"one too many":      {{Disk: 0, Host: alice.sub, Count: subIDs + 1}},
		"one before":        {{Disk: 0, Host: alice.sub - 1, Count: 2}},
		"the helper's":      {{Disk: 0, Host: 0x70010000, Count: 2}},
	} {
		for _, o := range []MountOptions{{UIDs: m, GIDs: good}, {UIDs: good, GIDs: m}} {
			_, err := c.Mount(context.Background(), 0, o)
			if err := want(unix.EPERM, err); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	// The kernel refuses maps that contradict themselves.
	for name, m := range map[string][]wire.Range{
		"overlap on disk": {{Disk: 0, Host: alice.id, Count: 1}, {Disk: 0, Host: alice.sub, Count: 1}},
		"overlap of host": {{Disk: 0, Host: alice.id, Count: 1}, {Disk: 1, Host: alice.id, Count: 1}},
		"beyond the end":  {{Disk: 1<<32 - 2, Host: alice.sub, Count: 10}},
	} {
		_, err := c.Mount(context.Background(), 0, MountOptions{UIDs: m, GIDs: good})
		if err := want(unix.EINVAL, err); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// backingClient tries to get at the file below its mount.
func backingClient() error {
	staging, helper := os.Getenv("STAGING"), os.Getenv("HELPER")
	broker := 0
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%[1]s/children", helper)); err == nil {
		fmt.Sscan(string(data), &broker)
	}
	var tried []string
	c, err := leased(wire.Ext4)
	if err != nil {
		return err
	}
	defer c.Close()
	if os.Geteuid() == 0 {
		dir, err := scratch()
		if err != nil {
			return err
		}
		dir = filepath.Join(dir, "tree")
		if err := mountAt(c, dir, MountOptions{}); err != nil {
			return err
		}
		// What only the owner of the filesystem may do to it.
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		const freeze, trim, shutdown, resize = 0xc0045877, 0xc0185879, 0x8004587d, 0x40086610
		for _, request := range []uint{freeze, trim, shutdown, resize} {
			data := [32]byte{}
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), addressOf(&data)); errno != unix.EPERM && errno != unix.ENOTTY {
				return fmt.Errorf("ioctl %#x: %v", request, errno)
			}
		}
	}
	loops, err := filepath.Glob("/dev/loop*")
	if err != nil {
		return err
	}
	tried = append(loops, staging, filepath.Join(staging, "mnt"))
	for _, pid := range []string{helper, strconv.Itoa(broker)} {
		for _, name := range []string{"fd", "root/", "cwd/", "mem", "map_files", "ns/mnt", "environ", "fd/5"} {
			tried = append(tried, "/proc/"+pid+"/"+name)
		}
	}
	for _, path := range tried {
		if _, err := os.Open(path); !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("open %s: %v", path, err)
		}
	}
	for _, pid := range []string{helper, strconv.Itoa(broker)} {
		n, _ := strconv.Atoi(pid)
		if n == 0 {
			continue
		}
		if err := want(unix.EPERM, unix.Kill(n, unix.SIGTERM)); err != nil {
			return fmt.Errorf("end the helper: %w", err)
		}
		if err := want(unix.EPERM, unix.PtraceAttach(n)); err != nil {
			return fmt.Errorf("trace the helper: %w", err)
		}
	}
	if _, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), unix.O_RDONLY); err == nil {
		return errors.New("a file handle can be opened")
	}
	return nil
}

// busyClient exports what is in use in some way.
func busyClient() error {
	c, dir, err := mounted(wire.Ext4, MountOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := context.Background()
	export := func() error { _, err := c.Export(ctx, 0); return err }
	if err := want(unix.EBUSY, export()); err != nil {
		return fmt.Errorf("attached: %w", err)
	}
	// Another process's namespace has it.
	holder := exec.Command("sleep", "100")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return err
	}
	if err := unmount(dir); err != nil {
		return err
	}
	if err := want(unix.EBUSY, export()); err != nil {
		return fmt.Errorf("in a namespace: %w", err)
	}
	holder.Process.Kill()
	holder.Wait()
	// Only a descriptor has it.
	f, err := c.Mount(ctx, 0, MountOptions{UIDs: me().ids(), GIDs: me().ids()})
	if err != nil {
		return err
	}
	if err := want(unix.EBUSY, export()); err != nil {
		return fmt.Errorf("detached: %w", err)
	}
	// The descriptor is on its way to somebody.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		return err
	}
	f.Close()
	if err := want(unix.EBUSY, export()); err != nil {
		return fmt.Errorf("in flight: %w", err)
	}
	unix.Close(pair[0])
	unix.Close(pair[1])
	return export()
}

// floodClient takes as many leases as it can.
func floodClient() error {
	n := 0
	var all []*Conn
	for range 1000 {
		c, err := dial()
		if errors.Is(err, unix.EUSERS) {
			continue
		}
		if err != nil {
			return err
		}
		switch err := c.Create(context.Background(), 1<<20); {
		case err == nil:
			n++
			all = append(all, c)
		case !errors.Is(err, unix.EDQUOT):
			return err
		default:
			if len(all) < 40 {
				all = append(all, c) // keeps its place
			} else {
				c.Close()
			}
		}
	}
	pause(fmt.Sprintf("%d leases", n))
	return nil
}

// silentClient says nothing, or not enough, and has its connections closed.
func silentClient() error {
	var all []rawConn
	for range 8 {
		c, err := dialRaw()
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	if err := want(unix.EINVAL, all[0].ask([]byte{1, 2})); err != nil {
		return err
	}
	for _, c := range all {
		if err := c.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			return err
		}
		if n, err := c.Read(make([]byte, 100)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read %d bytes, %v", n, err)
		}
	}
	return nil
}

// vanishClient disconnects while its requests are carried out.
func vanishClient() error {
	for i := range 20 {
		c, err := dialRaw()
		if err != nil {
			return err
		}
		frames := [][]byte{
			wire.Encode(&wire.Create{Size: 32 << 20}),
			wire.Encode(&wire.Partition{Size: 32 << 20, SectorSize: 512}),
			wire.Encode(&wire.Mkfs{Type: wire.Ext4, UUID: [16]byte{1}}),
			wire.Encode(goodMount()),
			wire.Encode(&wire.Sync{}),
		}
		for _, frame := range frames[:1+i%len(frames)] {
			if err := wire.Send(c.UnixConn, frame); err != nil {
				break // refused as the leases before are still being dropped
			}
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		c.Close()
	}
	return nil
}

// deafClient does not read replies.
func deafClient() error {
	c, err := dialRaw()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	for range 10000 {
		if err := wire.Send(c.UnixConn, wire.Encode(&wire.Status{})); err != nil {
			return nil
		}
	}
	return errors.New("ten thousand requests are taken without a reply being read")
}

// quotaClient goes to the limits of its quota.
func quotaClient() error {
	ctx := context.Background()
	const quota = 64 << 30
	take := func(size uint64) (*Conn, error) {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		return c, c.Create(ctx, size)
	}
	_, err := take(quota + 1)
	if err := want(unix.EDQUOT, err); err != nil {
		return err
	}
	var c *Conn
	for range 100 { // leases before this one are still being dropped
		if c, err = take(quota); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	_, err = take(1)
	if err := want(unix.EDQUOT, err); err != nil {
		return err
	}
	if err := want(unix.EEXIST, c.Create(ctx, 1)); err != nil {
		return err
	}
	_, err = c.Partition(ctx, quota+512, 512)
	if err := want(unix.ENOSPC, err); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	// Exported bytes count for as long as somebody has them.
	if c, err = leased(wire.Ext4); err != nil {
		return err
	}
	f, err := c.Export(ctx, 0)
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	_, err = take(quota)
	if err := want(unix.EDQUOT, err); err != nil {
		return fmt.Errorf("while exported bytes are open: %w", err)
	}
	f.Close()
	for range 100 {
		if c, err = take(quota); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("quota is not given back: %w", err)
}

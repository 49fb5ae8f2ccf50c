package lease

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ossify/ossify/lease/wire"
	"golang.org/x/sys/unix"
)

// The tests start the helper with users of their own, and this program again as one
// of them. A client in a user namespace comes about as with newuidmap:
//
//	test (root)           client (user)            mapped (in a new user namespace)
//	  | starts            → | starts               → | waits
//	  | ← its number        |                        |
//	  | writes the maps   ------------------------→  | runs the client's function
const (
	roleEnv   = "OSSIFY_LEASE_ROLE"   // "client" or "mapped"
	clientEnv = "OSSIFY_LEASE_CLIENT" // name in clients()
	socketEnv = "OSSIFY_LEASE_SOCKET"
	nestEnv   = "OSSIFY_LEASE_NAMESPACE" // not empty: with a user namespace
	userEnv   = "OSSIFY_LEASE_USER"
)

// user is one of the fixture's.
type user struct {
	name string
	id   uint32
	// sub is the first subordinate id, of subIDs.
	sub uint32
}

const (
	groupID = 61000
	subIDs  = 65536
)

var (
	alice = user{"alice", 61001, 6100000}
	bob   = user{"bob", 61002, 6200000}
	eve   = user{"eve", 61003, 6300000} // not in the group
)

func users() []user { return []user{alice, bob, eve} }

// ids is the map of the user's namespace: root is the user.
func (u user) ids() []wire.Range {
	return []wire.Range{{Disk: 0, Host: u.id, Count: 1}, {Disk: 1, Host: u.sub, Count: subIDs - 1}}
}

// program is the helper's, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ossify-loop-test")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "../cmd/ossify-loop")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "ossify-loop"), nil
})

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "client":
		exit(beClient())
	case "mapped":
		exit(beMapped())
	}
	code := m.Run()
	if path, err := program(); err == nil && os.Geteuid() == 0 {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// beClient runs the client's function, or in a new namespace "mapped". It has the
// user's id. Descriptor 3 takes the number of the new process, from 4 comes the
// word that the maps are there.
func beClient() error {
	if os.Getenv(nestEnv) == "" {
		return runClient()
	}
	if os.Geteuid() == 0 {
		return runClient()
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=mapped")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(4, "go")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	number := os.NewFile(3, "number")
	fmt.Fprintln(number, cmd.Process.Pid)
	number.Close()
	return cmd.Wait()
}

// beMapped waits for the maps and becomes root of the namespace.
func beMapped() error {
	if _, err := os.NewFile(3, "go").Read(make([]byte, 1)); err != nil {
		return err
	}
	os.Setenv(roleEnv, "client")
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

func runClient() error {
	f, ok := clients()[os.Getenv(clientEnv)]
	if !ok {
		return fmt.Errorf("no client %q", os.Getenv(clientEnv))
	}
	return f()
}

// me is the user whose client this process is.
func me() user {
	for _, u := range users() {
		if u.name == os.Getenv(userEnv) {
			return u
		}
	}
	return user{}
}

// dial connects a client to the helper.
func dial() (*Conn, error) { return Dial(context.Background(), os.Getenv(socketEnv)) }

// helper is a running ossify-loop.
type helper struct {
	t           *testing.T
	dir, socket string
	cmd         *exec.Cmd
	log         *logBuffer
}

// logBuffer is what the helper has written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// end are the last lines.
func (l *logBuffer) end() string {
	text := l.String()
	return text[max(0, len(text)-500):]
}

// needRoot skips the test for those who cannot start the helper.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newHelper makes the fixture, and starts the helper. At the test's end nothing of it
// may be left.
func newHelper(t *testing.T, flags ...string) *helper {
	t.Helper()
	h := newStoppedHelper(t)
	h.start(flags...)
	return h
}

func newStoppedHelper(t *testing.T) *helper {
	t.Helper()
	needRoot(t)
	h := &helper{t: t, dir: t.TempDir()}
	h.socket = filepath.Join(h.dir, "socket")
	if err := errors.Join(os.Chmod(h.dir, 0o755), os.Chmod(filepath.Dir(h.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(h.dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	passwd, sub := "root:x:0:0::/root:/bin/sh\n", ""
	for _, u := range users() {
		passwd += fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", u.name, u.id, u.id)
		sub += fmt.Sprintf("%s:%d:%d\n", u.name, u.sub, subIDs)
	}
	for name, text := range map[string]string{
		"passwd": passwd, "subuid": sub, "subgid": sub,
		"group": fmt.Sprintf("root:x:0:\nossify:x:%d:alice,bob\n", groupID),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := machine(t)
	t.Cleanup(func() {
		h.stop()
		h.same(before)
	})
	return h
}

// machine is what the helper must leave as it was: loop devices and mounts.
func machine(t *testing.T) string {
	t.Helper()
	loops, err := exec.Command("losetup", "-a").Output()
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(loops) + string(mounts)
}

// same fails the test if the machine has a loop device or mount of the helper that it
// had not before, after a moment. Other programs may make others.
func (h *helper) same(before string) {
	h.t.Helper()
	var left []string
	for range 100 {
		left = nil
		for line := range strings.Lines(machine(h.t)) {
			if !strings.Contains(before, line) && (strings.Contains(line, h.dir) || strings.Contains(line, "deleted") || strings.Contains(line, "ossify-loop")) {
				left = append(left, line)
			}
		}
		if left == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.t.Errorf("the helper has left %q", left)
}

// start starts the helper and waits for its socket.
func (h *helper) start(flags ...string) {
	h.t.Helper()
	path, err := program()
	if err != nil {
		h.t.Fatal(err)
	}
	h.run(h.command(path, append([]string{"--listen=" + h.socket, "--staging=" + filepath.Join(h.dir, "staging")}, flags...)...))
}

// command runs a program where the fixture's users are those of /etc.
func (h *helper) command(name string, args ...string) *exec.Cmd {
	const script = `cd "$1" && for f in *; do mount --bind "$f" "/etc/$f" || exit; done && cd / && shift && exec "$@"`
	return exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", filepath.Join(h.dir, "etc"), name}, args...)...)
}

func (h *helper) run(cmd *exec.Cmd) {
	h.t.Helper()
	h.log = &logBuffer{}
	h.cmd = cmd
	h.cmd.Stderr = h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	for range 200 {
		c, err := Dial(context.Background(), h.socket)
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Fatalf("the helper does not start: %s", h.log)
}

// stop ends the helper.
func (h *helper) stop() {
	if h.cmd == nil {
		return
	}
	h.cmd.Process.Signal(unix.SIGTERM)
	h.cmd.Wait()
	h.cmd = nil
	if h.t.Failed() {
		h.t.Logf("the helper's log ends:\n%s", h.log.end())
	}
}

// client is a running client.
type client struct {
	h      *helper
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors *logBuffer
}

// launch starts a client as a user, in a user namespace if nest. extra are "NAME=VALUE".
func (h *helper) launch(u user, nest bool, name string, extra ...string) *client {
	h.t.Helper()
	credential := &syscall.Credential{Uid: u.id, Gid: u.id, Groups: []uint32{groupID}}
	return h.launchAs(u, credential, nest, name, extra...)
}

func (h *helper) launchAs(u user, credential *syscall.Credential, nest bool, name string, extra ...string) *client {
	h.t.Helper()
	c := &client{h: h, cmd: exec.Command("/proc/self/exe"), errors: &logBuffer{}}
	c.cmd.Env = append([]string{roleEnv + "=client", clientEnv + "=" + name, socketEnv + "=" + h.socket, userEnv + "=" + u.name, "PATH=/usr/sbin:/usr/bin"}, extra...)
	c.cmd.Dir = "/"
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	c.cmd.Stderr = c.errors
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if !nest {
		if err := c.cmd.Start(); err != nil {
			h.t.Fatal(err)
		}
		return c
	}
	c.cmd.Env = append(c.cmd.Env, nestEnv+"=1")
	numberIn, numberOut, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	goIn, goOut, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.cmd.ExtraFiles = []*os.File{numberOut, goIn}
	if err := c.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	numberOut.Close()
	goIn.Close()
	line, err := bufio.NewReader(numberIn).ReadString('\n')
	numberIn.Close()
	if err != nil {
		h.t.Fatalf("client %s does not start: %v: %s", name, err, c.errors)
	}
	lines := ""
	for _, r := range u.ids() {
		lines += fmt.Sprintln(r.Disk, r.Host, r.Count)
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(filepath.Join("/proc", strings.TrimSpace(line), file), []byte(lines), 0); err != nil {
			h.t.Fatal(err)
		}
	}
	goOut.Write([]byte{0})
	goOut.Close()
	return c
}

// line reads a line that the client writes.
func (c *client) line() string {
	c.h.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.cmd.Wait()
		c.h.t.Fatalf("client %s: %v: %s%s\nhelper: %s", c.cmd.Env[1], err, line, c.errors, c.h.log.end())
	}
	return strings.TrimSpace(line)
}

// next lets the client go on.
func (c *client) next() { fmt.Fprintln(c.in) }

// end lets the client go on and waits for its good end. It returns what it has written.
func (c *client) end() string {
	c.h.t.Helper()
	c.in.Close()
	rest, _ := io.ReadAll(c.out)
	if err := c.cmd.Wait(); err != nil {
		c.h.t.Fatalf("client %s: %v: %s%s\nhelper: %s", c.cmd.Env[1], err, rest, c.errors, c.h.log.end())
	}
	return string(rest)
}

// as runs a client to its end.
func (h *helper) as(u user, nest bool, name string, extra ...string) string {
	h.t.Helper()
	return h.launch(u, nest, name, extra...).end()
}

// pause tells the test something and waits until it lets the client go on.
func pause(text string) {
	fmt.Println(text)
	os.Stdin.Read(make([]byte, 1))
}

// attach puts a detached mount somewhere in the client's namespace.
func attach(f *os.File, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// scratch mounts a filesystem in memory where a client can make directories.
func scratch() (string, error) {
	const dir = "/mnt"
	return dir, unix.Mount("scratch", dir, "tmpfs", 0, "mode=755")
}

// unmount unmounts what the helper may just be letting go of.
func unmount(dir string) error {
	for range 100 {
		if err := unix.Unmount(dir, 0); err != unix.EBUSY {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return unix.Unmount(dir, 0)
}

// want returns an error if err is not the number.
func want(errno syscall.Errno, err error) error {
	if errors.Is(err, errno) {
		return nil
	}
	return fmt.Errorf("got error %v, want %v", err, errno)
}

// filesystem is what a client makes by default.
func filesystem(kind wire.Filesystem) Filesystem {
	return Filesystem{Type: kind, UUID: [16]byte{0xde, 0xad, 0xbe, 0xef, 15: byte(kind)}, Label: "test"}
}

// smallest are the sizes for tests, in bytes.
func smallest(kind wire.Filesystem) uint64 {
	return map[wire.Filesystem]uint64{wire.Ext4: 32 << 20, wire.XFS: 320 << 20, wire.Btrfs: 128 << 20}[kind]
}

// leased makes a lease with one partition that has a filesystem.
func leased(kind wire.Filesystem) (*Conn, error) { return leasedOf(kind, smallest(kind)) }

func leasedOf(kind wire.Filesystem, size uint64) (*Conn, error) {
	ctx := context.Background()
	c, err := dial()
	if err != nil {
		return nil, err
	}
	if err := c.Create(ctx, size); err != nil {
		return nil, err
	}
	if _, err := c.Partition(ctx, size, 512); err != nil {
		return nil, err
	}
	return c, c.Mkfs(ctx, 0, filesystem(kind))
}

// mounted makes a lease and attaches a mount of it. The mount has the client's ids.
func mounted(kind wire.Filesystem, o MountOptions) (c *Conn, dir string, err error) {
	return mountedOf(kind, smallest(kind), o)
}

func mountedOf(kind wire.Filesystem, size uint64, o MountOptions) (c *Conn, dir string, err error) {
	if c, err = leasedOf(kind, size); err != nil {
		return nil, "", err
	}
	if dir, err = scratch(); err != nil {
		return nil, "", err
	}
	dir = filepath.Join(dir, "tree")
	return c, dir, mountAt(c, dir, o)
}

// mountAt attaches a mount of the first partition.
func mountAt(c *Conn, dir string, o MountOptions) error {
	o.UIDs, o.GIDs = me().ids(), me().ids()
	f, err := c.Mount(context.Background(), 0, o)
	if err != nil {
		return err
	}
	defer f.Close()
	return attach(f, dir)
}

func kinds() []wire.Filesystem { return []wire.Filesystem{wire.Ext4, wire.XFS, wire.Btrfs} }

func kindOf(number string) wire.Filesystem {
	n, _ := strconv.Atoi(number)
	return wire.Filesystem(n)
}

package jsoncomm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pair returns two connected ends that are closed when the test ends.
func pair(t testing.TB) (a, b *Conn) {
	t.Helper()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b = New(fd)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// memfd returns a file in memory that holds data, as osbuild sends it.
func memfd(t testing.TB, data string) *os.File {
	t.Helper()
	f, err := payloadFile([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sendRaw sends a packet as it is, with descriptors.
func sendRaw(t testing.TB, c *Conn, data string, files ...*os.File) {
	t.Helper()
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if data == "" && len(files) > 0 {
		// unix.Sendmsg would add a byte.
		hdr := unix.Msghdr{Control: &oob[0], Controllen: uint64(len(oob))}
		if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&hdr)), unix.MSG_NOSIGNAL); errno != 0 {
			t.Fatal(errno)
		}
		return
	}
	if err := unix.Sendmsg(c.fd, []byte(data), oob, nil, unix.MSG_NOSIGNAL); err != nil {
		t.Fatal(err)
	}
}

// openFDs counts the descriptors of this process.
func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 4096, maxPacket - 2, maxPacket - 1, maxPacket, 1 << 20, 8 << 20} {
		a, b := pair(t)
		want := strings.Repeat("x", size)
		if err := a.Send(want); err != nil {
			t.Fatalf("%d bytes: send: %v", size, err)
		}
		var got string
		files, err := b.Recv(&got)
		if err != nil {
			t.Fatalf("%d bytes: receive: %v", size, err)
		}
		if got != want || len(files) != 0 {
			t.Errorf("%d bytes: got %d bytes and %d descriptors", size, len(got), len(files))
		}
	}
}

func TestMessagesKeepTheirOrder(t *testing.T) {
	a, b := pair(t)
	for i := range 50 {
		if err := a.Send(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		var got int
		if _, err := b.Recv(&got); err != nil || got != i {
			t.Fatalf("got %d, %v; want %d", got, err, i)
		}
	}
}

func TestDescriptors(t *testing.T) {
	for _, size := range []int{1, 1 << 20} { // in the packet, and in a file of its own
		a, b := pair(t)
		if err := a.Send(strings.Repeat("x", size), memfd(t, "one"), memfd(t, "two")); err != nil {
			t.Fatal(err)
		}
		var message string
		files, err := b.Recv(&message)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			data, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
			if err != nil {
				t.Fatal(err)
			}
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("received descriptor: flags %#x, %v; want FD_CLOEXEC, or it leaks to programs we start", flags, err)
			}
			got = append(got, string(data))
		}
		CloseAll(files)
		if len(message) != size || strings.Join(got, " ") != "one two" {
			t.Errorf("got %d bytes and files %q", len(message), got)
		}
	}
}

func TestTooManyDescriptors(t *testing.T) {
	a, _ := pair(t)
	f := memfd(t, "")
	files := make([]*os.File, maxFDs+1)
	for i := range files {
		files[i] = f
	}
	if err := a.Send("x", files...); err == nil || !strings.Contains(err.Error(), "at most 253") {
		t.Errorf("got %v", err)
	}
}

func TestPeerIsGone(t *testing.T) {
	for name, leave := range map[string]func(a *Conn){
		"closed":              func(a *Conn) { a.Close() },
		"shut down":           func(a *Conn) { a.Shutdown() },
		"closed, with unread": func(a *Conn) { a.Close() },
	} {
		a, f, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		b := New(int(f.Fd()))
		if name == "closed, with unread" {
			if err := b.Send("never read"); err != nil { // the kernel answers ECONNRESET
				t.Fatal(err)
			}
		}
		leave(a)
		var got any
		if _, err := b.Recv(&got); !errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v, want io.EOF", name, err)
		}
		if err := b.Send("x"); err == nil {
			t.Errorf("%s: sending to nobody worked", name)
		}
		f.Close()
	}
}

func TestRefusedMessages(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDWR, 0) // with a writer: reading would block
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	disk, err := os.CreateTemp("/var/tmp", "ossify-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(disk.Name())
	defer disk.Close()
	big := memfd(t, "")
	if err := big.Truncate(MaxMessage + 1); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, packet string
		files        []*os.File
		want         string
	}{
		{"no JSON", "{", nil, "decode message"},
		{"two documents", "1 2", nil, "decode message"},
		{"no JSON, with a descriptor", "{", []*os.File{memfd(t, "")}, "decode message"},
		{"marker without a file", string(viaFile), nil, "carries no descriptor"},
		{"marker and an empty file", string(viaFile), []*os.File{memfd(t, "")}, "decode message"},
		{"marker and no JSON", string(viaFile), []*os.File{memfd(t, "["), memfd(t, "")}, "decode message"},
		{"marker and a pipe", string(viaFile), []*os.File{pipe}, "no file in memory"},
		{"marker and a file on disk", string(viaFile), []*os.File{disk}, "no file in memory"},
		{"empty", "", nil, "empty message"},
		{"empty, with a descriptor", "", []*os.File{memfd(t, "")}, "empty message"},
		{"marker and as many files as there can be", string(viaFile), slices.Repeat([]*os.File{memfd(t, "{")}, maxFDs), "decode message"},
		{"nested too deep", strings.Repeat("[", 60000), nil, "exceeded max depth"},
		{"marker and too large a file", string(viaFile), []*os.File{big}, "at most"},
	}
	for _, test := range tests {
		a, b := pair(t)
		sendRaw(t, a, test.packet, test.files...)
		before := openFDs(t)
		var got any
		files, err := b.Recv(&got)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		}
		if len(files) != 0 || openFDs(t) != before {
			t.Errorf("%s: %d descriptors before, %d after the refused message", test.name, before, openFDs(t))
		}
		// The connection is still good.
		sendRaw(t, a, `"next"`)
		if _, err := b.Recv(&got); err != nil || got != "next" {
			t.Errorf("%s: next message: got %v, %v", test.name, got, err)
		}
	}
}

// TestLimit: a connection can have a smaller limit than others.
func TestLimit(t *testing.T) {
	a, b := pair(t)
	b.Limit = 100 << 10
	for _, size := range []int{b.Limit - 2, b.Limit - 1} { // with its quotes
		if err := a.Send(strings.Repeat("x", size)); err != nil {
			t.Fatal(err)
		}
	}
	var got string
	if _, err := b.Recv(&got); err != nil || len(got) != b.Limit-2 {
		t.Errorf("at the limit: got %d bytes, %v", len(got), err)
	}
	if _, err := b.Recv(&got); err == nil || !strings.Contains(err.Error(), "at most 102400") {
		t.Errorf("above the limit: got %v", err)
	}
}

// TestLastWords: what was sent before the peer left is received, empty or not.
func TestLastWords(t *testing.T) {
	a, b := pair(t)
	sendRaw(t, a, `"last"`)
	a.Shutdown()
	var got string
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(&got); err != nil || got != "last" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.Recv(&got); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
}

// TestPayloadPosition: the sender may leave the file's position at its end.
func TestPayloadPosition(t *testing.T) {
	a, b := pair(t)
	f := memfd(t, `{"k":1}`)
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	sendRaw(t, a, string(viaFile), f)
	var got map[string]int
	if _, err := b.Recv(&got); err != nil || got["k"] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestSendRefusesWhatIsNoJSON(t *testing.T) {
	a, _ := pair(t)
	if err := a.Send(func() {}); err == nil || !strings.Contains(err.Error(), "encode message") {
		t.Errorf("got %v", err)
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("nobody listens: got %v, want an error with the path", err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Send("hello"); err != nil {
		t.Error(err)
	}
}

// FuzzRecv receives foreign packets, alone and as the content of a file.
func FuzzRecv(f *testing.F) {
	for _, packet := range []string{
		`{"type":"method","data":{"name":"download","args":{}}}`, `null`, `{`, `"\ud800"`, string(viaFile),
		`{"type":"signal","data":{"reply":{"done":1}}}`, strings.Repeat("[", 10001), "\x00",
	} {
		f.Add([]byte(packet), false)
		f.Add([]byte(packet), true)
	}
	f.Fuzz(func(t *testing.T, packet []byte, inFile bool) {
		if len(packet) == 0 || len(packet) > maxPacket {
			return // no packet that a peer can send
		}
		a, b := pair(t)
		if inFile {
			sendRaw(t, a, string(viaFile), memfd(t, string(packet)))
		} else {
			sendRaw(t, a, string(packet))
		}
		var got any
		files, err := b.Recv(&got)
		if len(files) != 0 {
			t.Fatalf("%d descriptors came out of none", len(files))
		}
		var want any
		if wantErr := json.Unmarshal(packet, &want); (err == nil) != (wantErr == nil) {
			t.Fatalf("got error %v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		// What was understood can be sent on and is understood again.
		if err := b.Send(got); err != nil {
			t.Fatal(err)
		}
		var again any
		if _, err := a.Recv(&again); err != nil {
			t.Fatal(err)
		}
		first, err1 := json.Marshal(got)
		second, err2 := json.Marshal(again)
		if err1 != nil || err2 != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s (%v, %v)", first, second, err1, err2)
		}
	})
}

package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ossify/ossify/test/pty"
	"golang.org/x/sys/unix"
)

// guest asks for a login as getty and login do, then is a real shell.
const guest = `stty -echo
printf 'Debian GNU/Linux 12 testhost ttyS0\r\n\r\ntesthost login: '
read user
printf '%s\r\nPassword: ' "$user"
read password
if [ "$user:$password" != demo:secret ]; then printf '\r\nLogin incorrect\r\ntesthost login: '; exec cat; fi
printf '\r\nLinux testhost 6.1\r\nLast login: Mon\r\n'
stty echo cols 80
PS1='\[\e[1m\]demo@testhost\[\e[0m\]:~$ ' exec bash --norc --noprofile -i`

// startGuest returns a machine whose console is that of a program on this host.
func startGuest(t *testing.T) *Machine {
	t.Helper()
	master, slave := pty.Open(t)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", guest)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=vt220", "HOME=" + t.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &Machine{console: newConsole(nil), messages: newConsole(nil), stdin: master, done: make(chan struct{}), cancel: func() {}}
	go func() { _, _ = io.Copy(m.console, master) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return m
}

func TestSession(t *testing.T) {
	m := startGuest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Login(ctx, "demo", "secret"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line, want string
		status     int
	}{
		{"echo one; echo two", "one\ntwo", 0},
		{"printf 'no newline'", "no newline", 0},
		{"true", "", 0},
		{"echo it\\'s; false", "it's", 1},
		{"(exit 42) # a comment", "", 42},
		{`printf '\033[31mred\033[0m\n'`, "red", 0},
		{"v=kept", "", 0},
		{"echo $v " + strings.Repeat("x", 200), "kept " + strings.Repeat("x", 200), 0}, // longer than a line of the terminal
		{"echo end-ossify-1-0", "end-ossify-1-0", 0},
	} {
		got, status, err := m.Command(ctx, c.line)
		if err != nil {
			t.Fatal(err)
		}
		if got != c.want || status != c.status {
			t.Errorf("%s: got %q, %d; want %q, %d", c.line, got, status, c.want, c.status)
		}
	}
	if _, _, err := m.Command(ctx, "two\nlines"); err == nil {
		t.Error("two lines were taken for one")
	}
}

func TestLoginIncorrect(t *testing.T) {
	m := startGuest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Login(ctx, "demo", "wrong"); err == nil || !strings.Contains(err.Error(), "the user or the password is wrong") {
		t.Errorf("got %v", err)
	}
}

// A terminal gives every key to the guest, Ctrl-C too, and is as before at the end.
func TestKeyboard(t *testing.T) {
	clean(t)
	master, slave := pty.Open(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	press := func(keys string) {
		if _, err := master.WriteString(keys); err != nil {
			t.Error(err)
		}
	}
	echoed := &trigger{pattern: "a\x03b", act: func() { press("\x01x") }}
	out := &trigger{pattern: "login: ", act: func() { press("a\x03b") }}
	err = Run(t.Context(), Options{Image: image(t, sector(t, prompt, true)), Accel: "tcg", Memory: 64,
		Stdin: slave, Stdout: io.MultiWriter(out, echoed)})
	if err != nil {
		t.Fatal(err)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("terminal before %+v, after %+v", before, after)
	}
	for _, s := range unwanted {
		if strings.Contains(out.seen.String(), s) {
			t.Errorf("%q reached the terminal", s)
		}
	}
}

func TestCalm(t *testing.T) {
	const in = "a\x1bcb\x1b[?7lc\x1b[?7hd\x1b[31me\x1b\x1bcf\x1b[?7"
	const want = "abc\x1b[?7hd\x1b[31me\x1bf"
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		c := &calm{w: &out}
		for rest := in; rest != ""; {
			n := min(size, len(rest))
			if got, err := c.Write([]byte(rest[:n])); got != n || err != nil {
				t.Fatalf("%d, %v", got, err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Errorf("%d bytes at a time: %q, want %q", size, out.String(), want)
		}
	}
}

func TestSSHPort(t *testing.T) {
	clean(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	o := Options{Image: image(t, sector(t, prompt, false)), Accel: "tcg", Memory: 64, SSHPort: port, Check: true}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("with the port in use: %v", err)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := m.Expect(ctx, loginPrompt()); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

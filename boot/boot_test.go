package boot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sector is a boot sector whose real-mode code writes text to COM1 and then
// halts, or with echo returns every byte it reads there.
func sector(t *testing.T, text string, echo bool) []byte {
	t.Helper()
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0, 0, // mov si, text
		0xfc,       // cld
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x12, // jz end
		0x88, 0xc3, // mov bl, al
		0xba, 0xfd, 0x03, // mov dx, 0x3fd
		0xec,       // wait: in al, dx
		0xa8, 0x20, // test al, 0x20
		0x74, 0xfb, // jz wait
		0x88, 0xd8, // mov al, bl
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // out dx, al
		0xeb, 0xe9, // jmp next
	}
	if echo {
		code = append(code,
			0xba, 0xfd, 0x03, // end: mov dx, 0x3fd
			0xec,       // empty: in al, dx
			0xa8, 0x01, // test al, 1
			0x74, 0xfb, // jz empty
			0xba, 0xf8, 0x03, // mov dx, 0x3f8
			0xec,       // in al, dx
			0xee,       // out dx, al
			0xeb, 0xf1, // jmp end
		)
	} else {
		code = append(code, 0xf4, 0xeb, 0xfd) // end: hlt; jmp end
	}
	at := 0x7c00 + len(code)
	code[6], code[7] = byte(at), byte(at>>8)
	code = append(append(code, text...), 0)
	if len(code) > 510 {
		t.Fatalf("text of %d bytes does not fit a boot sector", len(text))
	}
	return append(append(code, make([]byte, 510-len(code))...), 0x55, 0xaa)
}

// prompt is at the start of a line: SeaBIOS does not end its own.
const prompt = "\r\ntesthost login: "

// image writes a raw disk of 1 MiB; the comma tries the quoting of options.
func image(t *testing.T, start []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk,1.img")
	if err := os.WriteFile(path, append(start, make([]byte, 1<<20-len(start))...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// clean gives the test a TMPDIR and makes sure that nothing stays in it.
func clean(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("temporary files stay: %v, %v", left, err)
		}
	})
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestCheck(t *testing.T) {
	cases := []struct {
		name    string
		start   []byte
		timeout time.Duration
		verdict string // pattern of the line on Stdout
		errors  []string
	}{
		{name: "login", start: sector(t, "\r\n\x1b[1mtesthost\x1b[0m login: ", false),
			verdict: `^boots: login prompt after \d+\.\d s \(tcg, bios\)\n$`},
		{name: "login and kernel message", start: sector(t, "\r\ntesthost login: [   12.3] random: ready\r\n", false),
			verdict: `^boots: login prompt after `},
		{name: "login and systemd message", start: sector(t, "\r\nlogin: [  OK  ] Started cron.service\r\n", false),
			verdict: `^boots: login prompt after `},
		{name: "not a prompt", start: sector(t, "\r\nno such login: here\r\nKernel panic\r\n", false),
			errors: []string{`the console says "Kernel panic"`}},
		{name: "target", start: sector(t, "[  OK  ] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.\r\n", false),
			verdict: `^boots: multi-user target after \d+\.\d s \(tcg, bios\)\n$`},
		{name: "silent", start: sector(t, "", false), timeout: 5 * time.Second,
			errors: []string{"does not boot: no login prompt within 5s"}},
		{name: "panic", start: sector(t, "\r\n\x1b[31mmounting\x1b[0m\r\nKernel panic - not syncing: no init\r\n", false),
			errors: []string{`the console says "Kernel panic"`, "\nmounting\nKernel panic - not syncing: no init"}},
		{name: "grub", start: sector(t, "error: no such partition.\r\ngrub rescue> ", false),
			errors: []string{`the console says "grub rescue>"`, "error: no such partition."}},
		{name: "nothing to boot", start: nil,
			errors: []string{`the console says "No bootable device"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			clean(t)
			path := image(t, c.start)
			before := sum(t, path)
			var out, messages bytes.Buffer
			err := Run(t.Context(), Options{Image: path, Accel: "tcg", Memory: 64, Check: true,
				Timeout: c.timeout, Stdout: &out, Stderr: &messages})
			if sum(t, path) != before {
				t.Error("the image has changed")
			}
			if messages.Len() > 0 {
				t.Errorf("messages: %s", &messages)
			}
			if c.errors == nil {
				if err != nil || !regexp.MustCompile(c.verdict).MatchString(out.String()) {
					t.Errorf("got %q, %v", out.String(), err)
				}
				return
			}
			if err == nil || out.Len() > 0 {
				t.Fatalf("got %q, %v; want an error", out.String(), err)
			}
			for _, want := range c.errors {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
			if strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("error has escape sequences: %q", err)
			}
		})
	}
}

func TestConversation(t *testing.T) {
	clean(t)
	m, err := Start(t.Context(), Options{Image: image(t, sector(t, prompt, true)), Accel: "tcg", Memory: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, step := range []struct{ send, want string }{
		{"", `login: $`}, {"root\r\n", `^root\n`}, {"\x01xyz\n", `^xyz\n`},
	} {
		if err := m.Send(step.send); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Expect(ctx, regexp.MustCompile(step.want)); err != nil {
			t.Fatalf("after %q: %v", step.send, err)
		}
	}
	if got := m.Tail(2); got != "testhost login: root\nxyz" {
		t.Errorf("tail is %q", got)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err = m.Expect(short, regexp.MustCompile("never"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "testhost login: root") {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := m.Send("x"); err == nil {
		t.Error("typing at a closed machine worked")
	}
}

func TestInteractiveEndsWithCtrlAX(t *testing.T) {
	clean(t)
	read, write := io.Pipe()
	defer write.Close()
	// The keys are pressed once the prompt has been seen.
	out := &trigger{pattern: "login: ", act: func() { io.WriteString(write, "\x01x") }}
	var messages bytes.Buffer
	err := Run(t.Context(), Options{Image: image(t, sector(t, prompt, false)), Accel: "tcg",
		Memory: 64, Stdin: read, Stdout: out, Stderr: &messages})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.seen.String(), "testhost login: ") {
		t.Errorf("console is %q", &out.seen)
	}
	if got := messages.String(); got != "Ctrl-A X ends the machine; its changes are thrown away\n" {
		t.Errorf("messages are %q", got)
	}
}

type trigger struct {
	seen    bytes.Buffer
	pattern string
	act     func()
}

func (w *trigger) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if w.act != nil && strings.Contains(w.seen.String(), w.pattern) {
		go w.act()
		w.act = nil
	}
	return len(p), nil
}

func TestUEFI(t *testing.T) {
	clean(t)
	vars, err := findFirmware("/")
	if err != nil {
		t.Fatal(err)
	}
	before := sum(t, vars.vars)
	m, err := Start(t.Context(), Options{Image: image(t, nil), Accel: "tcg", Firmware: "uefi", Memory: 256})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := m.Expect(ctx, regexp.MustCompile(`BdsDxe: `)); err != nil {
		t.Error(err)
	}
	if sum(t, vars.vars) != before {
		t.Error("the installed variables have changed")
	}
}

func TestFormats(t *testing.T) {
	raw := image(t, sector(t, prompt, false))
	for _, format := range []string{"raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "vpc -o subformat=fixed"} {
		t.Run(format, func(t *testing.T) {
			clean(t)
			path := filepath.Join(t.TempDir(), "disk")
			args := append([]string{"convert", "-O"}, strings.Fields(format)...)
			if out, err := exec.Command("qemu-img", append(args, raw, path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			d, err := openDisk(path)
			if err != nil || d.format != strings.Fields(format)[0] {
				t.Fatalf("detected %q, %v", d.format, err)
			}
			before := sum(t, path)
			var out bytes.Buffer
			if err := Run(t.Context(), Options{Image: path, Accel: "tcg", Memory: 64, Check: true, Stdout: &out}); err != nil {
				t.Error(err)
			}
			if sum(t, path) != before {
				t.Error("the image has changed")
			}
		})
	}
}

func TestRefusedImages(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"xz": "\xfd7zXZ\x00\x00", "gzip": "\x1f\x8b\x08\x00", "zstd": "\x28\xb5\x2f\xfd", "bzip2": "BZh9",
		"tar": strings.Repeat("\x00", 257) + "ustar\x0000", "empty": "", "version": "QFI\xfb\x00\x00\x00\x01",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Run(t.Context(), Options{Image: path, Accel: "tcg", Check: true})
		if err == nil || !strings.Contains(err.Error(), "cannot boot "+path) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "pipe", "missing"} {
		if err := Run(t.Context(), Options{Image: filepath.Join(dir, name), Check: true}); err == nil {
			t.Errorf("image %q was taken", name)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	path := image(t, nil)
	for want, o := range map[string]Options{
		"no image given":       {},
		"unknown accelerator":  {Image: path, Accel: "xen"},
		"unknown firmware":     {Image: path, Firmware: "coreboot"},
		"memory of -1":         {Image: path, Memory: -1},
		"number of processors": {Image: path, CPUs: -1},
		"no port 65536":        {Image: path, SSHPort: 65536},
		"timeout -1s":          {Image: path, Timeout: -time.Second},
	} {
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestMissingHost(t *testing.T) {
	o := Options{Image: image(t, nil), Accel: "kvm", Firmware: "uefi", Check: true}
	good := thisHost()
	good.probe = func() error { return errors.New("no virtual machines today") }
	for want, change := range map[string]func(*host){
		"cannot boot images on arm64": func(h *host) { h.arch = "arm64" },
		"install qemu-system-x86 (":   func(h *host) { h.qemu = filepath.Join(t.TempDir(), "qemu") },
		"install ovmf (":              func(h *host) { h.root = t.TempDir() },
		"no virtual machines today":   func(*host) {},
	} {
		h := good
		change(&h)
		if err := run(t.Context(), o, h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestFindFirmware(t *testing.T) {
	for _, want := range firmwares {
		root := t.TempDir()
		for _, path := range []string{want.code, want.vars} {
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := findFirmware(root); err == nil {
				t.Error("half a pair was taken")
			}
			if err := os.WriteFile(filepath.Join(root, path), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := findFirmware(root)
		want.code, want.vars = filepath.Join(root, want.code), filepath.Join(root, want.vars)
		if err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
}

// brokenKVM is a host whose emulator runs script for KVM and the real one for TCG.
func brokenKVM(t *testing.T, script string) host {
	t.Helper()
	h := thisHost()
	real, err := exec.LookPath(h.qemu)
	if err != nil {
		t.Fatal(err)
	}
	h.qemu = filepath.Join(t.TempDir(), "qemu")
	text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *accel=kvm*) %s;; esac\nexec %s \"$@\"\n", script, real)
	if err := os.WriteFile(h.qemu, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	h.probe = func() error { return nil }
	h.silence = 200 * time.Millisecond
	return h
}

func TestFallback(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"silent", "exec sleep 1000", "printed nothing within"},
		{"refused", "echo no KVM >&2; exit 1", "did not start: QEMU ended (exit status 1): no KVM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clean(t)
			h := brokenKVM(t, c.script)
			if c.name == "refused" {
				h.silence = time.Minute
			}
			var out, messages bytes.Buffer
			err := run(t.Context(), Options{Image: image(t, sector(t, prompt, false)), Memory: 64,
				Check: true, Stdout: &out, Stderr: &messages}, h)
			if err != nil || !strings.Contains(out.String(), "(tcg, bios)") {
				t.Errorf("got %q, %v", &out, err)
			}
			if !strings.Contains(messages.String(), c.want) || !strings.Contains(messages.String(), "starting again with TCG") {
				t.Errorf("messages are %q", &messages)
			}
		})
	}
}

func TestQEMUFails(t *testing.T) {
	clean(t)
	h := brokenKVM(t, "echo out of luck >&2; exit 3")
	err := run(t.Context(), Options{Image: image(t, nil), Accel: "kvm", Check: true}, h)
	if err == nil || !strings.Contains(err.Error(), "exit status 3): out of luck") {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	clean(t)
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{pattern: "login: ", act: func() { cancel(interrupted) }}
	err := Run(ctx, Options{Image: image(t, sector(t, prompt, false)), Accel: "tcg", Memory: 64, Stdout: out})
	if !errors.Is(err, interrupted) {
		t.Errorf("got %v", err)
	}
	if err := Run(ctx, Options{Image: image(t, nil), Accel: "tcg", Check: true}); !errors.Is(err, interrupted) {
		t.Errorf("after the interrupt: %v", err)
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b[0m\r\n\x9b1mhost login: "))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newConsole(nil)
		c.Write(in)
		for _, r := range c.tail(tailLines) {
			if r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0) {
				t.Errorf("control character %q is left of %q", r, in)
			}
		}
	})
}

func FuzzDetect(f *testing.F) {
	for _, m := range magics {
		f.Add(append(make([]byte, m.offset), m.bytes...))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		format, err := detect(bytes.NewReader(in), int64(len(in)))
		if (format == "") == (err == nil) {
			t.Errorf("got %q, %v", format, err)
		}
	})
}

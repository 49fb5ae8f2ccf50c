package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain runs this program as a module that misbehaves, or as a watcher, a denier or
// a silent filesystem, if it was started as one.
func TestMain(m *testing.M) {
	becomeWatcher()
	becomeDenier()
	becomeSilent()
	if kind, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "org.hostile."); ok {
		misbehave(kind)
	}
	os.Exit(m.Run())
}

// misbehave is the module org.hostile.KIND; it does not return.
func misbehave(kind string) {
	// The daemon that others leave behind: it holds all it was given.
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		time.Sleep(time.Hour)
	}
	if len(os.Args) > 1 && os.Args[1] == "nested" {
		os.Exit(escape(true))
	}
	act, ok := hostileStages[kind]
	if !ok {
		act, ok = greed[kind]
	}
	if len(os.Args) > 1 && os.Args[1] == "--service-id" {
		p := &peer{fd: 3}
		var service func(*peer)
		service, ok = hostileServices[kind]
		act = func() { service(p) }
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "nothing hostile is called %s\n", kind)
		os.Exit(99)
	}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasSuffix(to, "/precious/file") {
			fmt.Fprintln(os.Stderr, "a file of the user is open as", link)
			os.Exit(96)
		}
	}
	act()
	os.Exit(0)
}

// must ends a module that cannot even misbehave.
func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "the hostile module has failed:", err)
		os.Exit(98)
	}
	return v
}

// peer is a connection on which anything can be said.
type peer struct {
	fd   int
	args struct {
		Target string         `json:"target"`
		Refs   map[string]any `json:"refs"`
	}
	source bool
}

// send sends a packet as it is; an empty one, too.
func (p *peer) send(packet string, fds ...int) error {
	data := []byte(packet)
	var oob []byte
	hdr := unix.Msghdr{}
	if len(data) > 0 {
		iov := unix.Iovec{Base: &data[0], Len: uint64(len(data))}
		hdr.Iov, hdr.Iovlen = &iov, 1
	}
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
		hdr.Control, hdr.Controllen = &oob[0], uint64(len(oob))
	}
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&hdr)), unix.MSG_NOSIGNAL)
	if errno != 0 {
		return errno
	}
	return nil
}

// sendFile sends a document of any size.
func (p *peer) sendFile(text io.Reader) {
	fd := must(unix.MemfdCreate("payload", 0))
	f := os.NewFile(uintptr(fd), "payload")
	must(io.Copy(f, text))
	_ = p.send("<args-via-fd>", fd)
	f.Close()
}

// call waits for the engine's call.
func (p *peer) call() {
	buf := make([]byte, 256<<10)
	n := must(unix.Read(p.fd, buf))
	var msg struct {
		Data struct {
			Name string          `json:"name"`
			Args json.RawMessage `json:"args"`
		} `json:"data"`
	}
	must(0, json.Unmarshal(buf[:n], &msg))
	must(0, json.Unmarshal(msg.Data.Args, &p.args))
	p.source = msg.Data.Name == "download"
}

// good is the reply of a module that does its work.
func (p *peer) good() string {
	if p.source {
		return `{"type": "reply", "data": {"reply": {"success": true, "results": []}}}`
	}
	return p.path(p.args.Target)
}

func (p *peer) path(path string) string {
	text := must(json.Marshal(path))
	return fmt.Sprintf(`{"type": "reply", "data": {"reply": {"path": %s, "data": {}}}}`, text)
}

// end waits until the engine closes the connection.
func (p *peer) end() {
	_, _ = unix.Read(p.fd, make([]byte, 1))
}

// answers makes a module that answers a call with packets.
func answers(packets ...string) func(*peer) {
	return func(p *peer) {
		p.call()
		for _, packet := range packets {
			if err := p.send(packet); err != nil {
				return
			}
		}
		p.end()
	}
}

// replies makes an input that replies with a path.
func replies(path func(target string) string) func(*peer) {
	return func(p *peer) {
		p.call()
		_ = p.send(p.path(path(p.args.Target)))
		p.end()
	}
}

// nasty is text that must not reach a terminal.
const nasty = "\x1b]0;owned\x07\x1b[31mred\rossify: all is well\nossify: all is well\x00\u202e"

func quoted(text string) string { return string(must(json.Marshal(text))) }

var hostileServices = map[string]func(*peer){
	"exit0":  func(*peer) {},
	"exit1":  func(*peer) { fmt.Println("no luck today" + nasty); os.Exit(1) },
	"killed": func(*peer) { die() },
	"exit1-after": func(p *peer) {
		p.call()
		_ = p.send(p.good())
		p.end()
		os.Exit(3)
	},
	"killed-after": func(p *peer) {
		p.call()
		_ = p.send(p.good())
		p.end()
		die()
	},
	"garbage":   answers("\x00\xff\xfegarbage{" + nasty),
	"empty":     answers(""),
	"array":     answers("[]"),
	"string":    answers(`"reply"`),
	"null":      answers("null"),
	"nodata":    answers(`{"type": "reply"}`),
	"noreply":   answers(`{"type": "reply", "data": {}}`),
	"wrongtype": answers(`{"type": "reply", "data": {"reply": 7}}`),
	"results":   answers(`{"type": "reply", "data": {"reply": {"success": true, "results": [{"success": true}, "x"]}}}`),
	"method":    answers(`{"type": "method", "data": {"name": "map", "args": {}}}`),
	"unknown":   answers(`{"type": ` + quoted(nasty) + `, "data": {}}`),
	"deep": func(p *peer) {
		p.call()
		p.sendFile(strings.NewReader(`{"type": "reply", "data": ` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`))
		p.end()
	},
	"oversize": func(p *peer) {
		p.call()
		p.sendFile(io.LimitReader(zeros{}, 100<<20))
		p.end()
	},
	"exception":       answers(`{"type": "exception", "data": {"name": ` + quoted("Wild"+nasty) + `, "value": ` + quoted("no luck"+nasty) + `}}`),
	"exception-shape": answers(`{"type": "exception", "data": {"name": ["x"], "value": {}}}`),
	"exception-huge": func(p *peer) {
		p.call()
		p.sendFile(strings.NewReader(`{"type": "exception", "data": {"name": "E", "value": "` + strings.Repeat("v", 10<<20) +
			`", "backtrace": "` + strings.Repeat("t", 10<<20) + `"}}`))
		p.end()
	},
	// The protocol has no numbers: an early reply is the reply.
	"early": func(p *peer) {
		p.call()
		_ = p.send(p.good())
		_ = p.send(p.good())
		_ = p.send(`{"type": "signal", "data": {"reply": {"done": -1, "total": 9223372036854775807, "items-done": -7}}}`)
		p.end()
	},
	"signals": func(p *peer) {
		p.call()
		for p.send(`{"type": "signal", "data": {"reply": {"done": 9223372036854775807, "total": 9223372036854775807}}}`) == nil {
		}
	},
	"silent": func(p *peer) { p.call(); p.end() },
	"lingers": func(p *peer) {
		p.call()
		_ = p.send(p.good())
		leaveDaemon()
		time.Sleep(time.Hour)
	},
	"daemon": func(p *peer) {
		p.call()
		leaveDaemon()
		_ = p.send(p.good())
		p.end()
	},
	"daemon-dies": func(p *peer) { p.call(); leaveDaemon(); os.Exit(4) },
	"descriptor": func(p *peer) {
		p.call()
		_ = p.send(p.good(), 0)
		p.end()
	},
	"descriptors": func(p *peer) {
		p.call()
		_ = p.send(p.good(), manyFDs()...)
		p.end()
	},
	"descriptors-only": func(p *peer) {
		p.call()
		_ = p.send("", manyFDs()...)
		p.end()
	},
	// Its own output and its own end of the connection.
	"descriptors-own": func(p *peer) {
		p.call()
		_ = p.send(p.good())
		_ = p.send(`{}`, 1, 2, 3)
		p.end()
	},
	"print": func(p *peer) {
		p.call()
		printMuch("\n")
		_ = p.send(p.good())
		p.end()
	},
	"print-fail": func(p *peer) { p.call(); printMuch("\x00"); os.Exit(5) },
	"floods-store": func(p *peer) {
		p.call()
		flood("store")
		_ = p.send(p.good())
		p.end()
	},
	// A tree is not mounted where a link leads.
	"mount-elsewhere": func(p *peer) {
		p.call()
		must(0, os.Symlink("/mnt", p.args.Target+"/link"))
		store := dial("store")
		for id := range p.args.Refs {
			for _, target := range []string{"/link", "/link/..", "/../../..", ""} {
				request := must(json.Marshal(map[string]any{"method": "read-tree-at", "object-id": id, "subtree": "/", "target": p.args.Target + target}))
				must(0, store.send(string(request)))
				answer := make([]byte, 10000)
				n := must(unix.Read(store.fd, answer))
				if ok := !strings.Contains(string(answer[:n]), "error"); ok != (target == "" || target == "/link/..") {
					fmt.Printf("%s: %s\n", request, answer[:n])
					os.Exit(6)
				}
			}
		}
		_ = p.send(p.good())
		p.end()
	},
	"path-etc":     replies(func(string) string { return "/etc" }),
	"path-up":      replies(func(target string) string { return target + "/../../.." }),
	"path-missing": replies(func(target string) string { return target + "/missing" }),
	"path-empty":   replies(func(string) string { return "" }),
	"path-link": replies(func(target string) string {
		must(0, os.Symlink("/etc", target+"/link"))
		return target + "/link/passwd-of-the-host"
	}),
	"path-swapped": replies(func(target string) string {
		must(0, errors.Join(os.Remove(target), os.Symlink("/etc", target)))
		return target
	}),
	"path-removed": replies(func(target string) string {
		must(0, os.Remove(target))
		return target
	}),
	"mounts": func(p *peer) {
		p.call()
		precious := setting("precious")
		// Some of them where the engine removes folders with all that is in them.
		for i := range 1000 {
			dir := filepath.Join(p.args.Target, strconv.Itoa(i))
			if i%2 == 0 {
				dir = "scratch" + strconv.Itoa(i)
			}
			must(0, os.Mkdir(dir, 0o755))
			must(0, unix.Mount(precious, dir, "", unix.MS_BIND, ""))
		}
		for range 10 { // on top of each other, and below the next
			must(0, unix.Mount(precious, p.args.Target+"/1", "", unix.MS_BIND, ""))
		}
		must(0, os.MkdirAll(p.args.Target+"/1/inner", 0o755))
		must(0, unix.Mount("tmpfs", p.args.Target+"/1/inner", "tmpfs", 0, ""))
		_ = p.send(p.good())
		p.end()
	},
}

var hostileStages = map[string]func(){
	"ok":      func() {},
	"calls":   callsStage,
	"exit1":   func() { fmt.Println(nasty + "\nno luck today"); os.Exit(1) },
	"exit255": func() { os.Exit(255) },
	"killed":  die,
	"silent":  func() { leaveDaemon(); time.Sleep(time.Hour) },
	"daemon":  func() { leaveDaemon() },
	"print":   func() { printMuch("\n") },
	"line":    func() { printMuch("x") },
	"binary":  func() { printMuch("\x00\xff\x1b]0;owned") },
	"meta-huge": func() {
		f := must(os.Create("/run/osbuild/meta"))
		must(io.Copy(f, io.LimitReader(zeros{}, printSize())))
	},
	"api-flood": func() { flood("/run/osbuild/api/osbuild"); flood("/run/osbuild/api/remoteloop") },
	"api-exception": func() {
		p := dial("/run/osbuild/api/osbuild")
		_ = p.send(`{"method": "exception", "exception": {"type": ` + quoted("Wild"+nasty) + `, "value": ` + quoted("no luck"+nasty) + `, "traceback": ["x"]}}`)
		os.Exit(1)
	},
	"api-exception-huge": func() {
		p := dial("/run/osbuild/api/osbuild")
		p.sendFile(strings.NewReader(`{"method": "exception", "exception": {"type": "E", "value": "the reason", "traceback": "` + strings.Repeat("t", 10<<20) + `"}}`))
		os.Exit(1)
	},
	"api-exception-shape": func() {
		p := dial("/run/osbuild/api/osbuild")
		_ = p.send(`{"method": "exception", "exception": {"type": 7, "value": {"a": "reason"}}}`)
		os.Exit(1)
	},
	"api-last": func() {
		p := dial("/run/osbuild/api/osbuild")
		for range 100 {
			_ = p.send("{}", 0, 1, 2)
		}
		_ = p.send(`{"method": "exception", "exception": {"type": "E", "value": "the last word", "traceback": ""}}`)
		os.Exit(1)
	},
}

// die is killed by the kernel: a signal of its own would not end the first
// process of a pid namespace.
func die() {
	must(0, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	kill := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS}}
	prog := unix.SockFprog{Len: 1, Filter: &kill[0]}
	must(0, unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0))
	os.Exit(97)
}

// leaveDaemon starts a process that lives on in a session of its own, with all
// descriptors.
func leaveDaemon() {
	cmd := exec.Command("/proc/self/exe", "daemon", os.Args[0])
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if fd, err := unix.FcntlInt(3, unix.F_DUPFD_CLOEXEC, 10); err == nil {
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "kept")}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(0, cmd.Start())
}

// manyFDs are as many descriptors as fit into a packet.
func manyFDs() []int {
	fds := make([]int, 253)
	for i := range fds {
		fds[i] = must(unix.Dup(1))
	}
	return fds
}

// dial connects to a socket.
func dial(path string) *peer {
	fd := must(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0))
	must(0, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
	return &peer{fd: fd}
}

// flood says all kinds of garbage on many connections and leaves them open.
func flood(path string) {
	fds := manyFDs()
	for i := range 200 {
		p := dial(path)
		for _, packet := range []string{"\x00garbage", "{}", `{"method": 7}`, `{"method": "exception"}`, `{"method": "mkdtemp"}`, "[]", "<args-via-fd>"} {
			_ = p.send(packet, fds[:i]...)
		}
	}
}

// setting is what the test has written for its modules.
func setting(name string) string {
	for _, libdir := range []string{filepath.Join(filepath.Dir(os.Args[0]), ".."), "/run/osbuild/lib"} {
		if data, err := os.ReadFile(filepath.Join(libdir, name)); err == nil {
			return string(data)
		}
	}
	panic("there is no " + name)
}

// printSize is how much is printed, in bytes.
func printSize() int64 { return must(strconv.ParseInt(setting("size"), 10, 64)) }

// printMuch prints text again and again, on standard output and error.
func printMuch(text string) {
	if text == "\n" {
		text = strings.Repeat("y", 79) + "\n"
	}
	chunk := bytes.Repeat([]byte(text), 64<<10/len(text))
	for left := printSize(); left > 0; left -= int64(2 * len(chunk)) {
		must(os.Stdout.Write(chunk))
		must(os.Stderr.Write(chunk))
	}
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

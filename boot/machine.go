package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// host is what Start needs of the computer it runs on.
type host struct {
	arch    string        // as runtime.GOARCH
	qemu    string        // name or path of the emulator
	probe   func() error  // nil if KVM can make machines
	silence time.Duration // how long a KVM guest may print nothing
	root    string        // where firmware is looked for
}

// Machine is a running QEMU whose serial console we hold. Its methods may be
// called from several goroutines, but only one may be in Expect.
type Machine struct {
	accel   string
	started time.Time
	console *console
	stdin   io.WriteCloser
	cancel  context.CancelFunc

	done     chan struct{} // closed after exit
	exit     error         // of QEMU, valid after done
	messages *console      // of QEMU itself
	commands int           // given with Command
}

// Start boots o.Image; o.Check and o.Timeout are not looked at except that
// with Check the console is not copied to o.Stdout. With Accel "auto" it
// waits for the first output of a KVM guest, and takes TCG if none comes. The
// machine dies with ctx; the caller closes it.
func Start(ctx context.Context, o Options) (*Machine, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	return start(ctx, o, thisHost())
}

func start(ctx context.Context, o Options, h host) (*Machine, error) {
	if err := checkArch(h.arch); err != nil {
		return nil, err
	}
	qemu, err := exec.LookPath(h.qemu)
	if err != nil {
		return nil, fmt.Errorf("cannot find %s: install qemu-system-x86 (Debian, Ubuntu, Arch) or qemu-system-x86-core (Fedora): %w", h.qemu, err)
	}
	h.qemu = qemu
	disk, err := openDisk(o.Image)
	if err != nil {
		return nil, err
	}
	var fw firmware
	if o.Firmware == "uefi" {
		if fw, err = findFirmware(h.root); err != nil {
			return nil, err
		}
	}
	if o.Accel == "tcg" {
		return launch(ctx, o, h, disk, fw, "tcg")
	}
	if err := h.probe(); err != nil {
		if o.Accel == "kvm" {
			return nil, fmt.Errorf("KVM does not work here: %w; allow this user to use /dev/kvm or choose tcg", err)
		}
		return launch(ctx, o, h, disk, fw, "tcg")
	}
	m, err := launch(ctx, o, h, disk, fw, "kvm")
	if err != nil || o.Accel == "kvm" {
		return m, err
	}
	return m.orTCG(ctx, o, h, disk, fw)
}

// orTCG returns m once it has printed something, or else a TCG machine instead.
func (m *Machine) orTCG(ctx context.Context, o Options, h host, disk disk, fw firmware) (*Machine, error) {
	limit := time.NewTimer(h.silence)
	defer limit.Stop()
	why := fmt.Sprintf("printed nothing within %s", h.silence)
	select {
	case <-m.console.first:
		return m, nil
	case <-m.done:
		if m.console.any() || m.exit == nil {
			return m, nil
		}
		why = "did not start: " + m.ended().Error()
	case <-limit.C:
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), m.Close())
	}
	if err := m.Close(); err != nil {
		return nil, err
	}
	fmt.Fprintf(o.Stderr, "starting again with TCG, which is slower than KVM: with KVM the machine %s\n", why)
	return launch(ctx, o, h, disk, fw, "tcg")
}

// launch starts one QEMU, which is gone when done closes. Its temporary files
// have no names, so that not even a killed machine leaves some.
func launch(ctx context.Context, o Options, h host, disk disk, fw firmware, accel string) (*Machine, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{accel: accel, cancel: cancel, done: make(chan struct{}),
		console: newConsole(nil), messages: newConsole(nil)}
	if !o.Check {
		m.console = newConsole(o.Stdout)
	}
	cmd := exec.CommandContext(ctx, h.qemu, arguments(o, disk, fw, accel)...)
	cmd.Stdout, cmd.Stderr = m.console, m.messages
	cmd.WaitDelay = 5 * time.Second
	// A group of its own keeps the terminal's signals to us, who then end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cannot connect to QEMU: %w", err)
	}
	m.stdin = stdin
	failed := make(chan error, 1)
	go m.live(cmd, failed)
	if err := <-failed; err != nil {
		<-m.done
		return nil, fmt.Errorf("cannot start %s: %w", h.qemu, err)
	}
	return m, nil
}

// live starts cmd and stays with it on one thread: the parent-death signal is
// sent when the thread that forked ends, not the process (prctl(2)).
func (m *Machine) live(cmd *exec.Cmd, failed chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.done)
	defer m.cancel()
	m.started = time.Now()
	err := cmd.Start()
	failed <- err
	if err == nil {
		m.exit = cmd.Wait()
	}
}

// Expect waits until pattern matches the console and returns the text up to the
// end of the match; the next Expect looks behind it. The text has no control
// sequences and its lines end in "\n"; what lies more than 256 KiB back is
// forgotten. "$" is the end of what has been printed so far. The error, when the
// machine or ctx ended, carries the last lines.
func (m *Machine) Expect(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	text, _, err := m.expect(ctx, pattern)
	return text, err
}

// expect is Expect that returns the match, too.
func (m *Machine) expect(ctx context.Context, pattern *regexp.Regexp) (text, match string, err error) {
	for {
		// Ask whether it ended before looking: its last words then are there.
		ended := false
		select {
		case <-m.done:
			ended = true
		default:
		}
		changed := m.console.changed()
		if text, match, ok := m.console.take(pattern); ok {
			return text, match, nil
		}
		if ctx.Err() != nil {
			return "", "", fmt.Errorf("%w\n%s", context.Cause(ctx), m.Tail(tailLines))
		}
		if ended {
			return "", "", fmt.Errorf("%w\n%s", m.ended(), m.Tail(tailLines))
		}
		select {
		case <-changed:
			m.settle(ctx)
		case <-m.done:
		case <-ctx.Done():
		}
	}
}

// settle gives the console a moment, since a guest prints byte by byte.
func (m *Machine) settle(ctx context.Context) {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-m.done:
	case <-ctx.Done():
	}
}

// ended describes how QEMU ended; only after done.
func (m *Machine) ended() error {
	if m.exit == nil {
		return errors.New("the machine switched itself off or asked for a restart")
	}
	if said := m.messages.tail(tailLines); said != "" {
		return fmt.Errorf("QEMU ended (%w): %s", m.exit, said)
	}
	return fmt.Errorf("QEMU ended: %w", m.exit)
}

// Send types text at the console, "\n" or "\r" as the guest wants it. It
// blocks while the guest does not read, and fails when the machine has ended.
func (m *Machine) Send(text string) error {
	// Ctrl-A is QEMU's own key on this console; doubled it reaches the guest.
	if _, err := io.WriteString(m.stdin, strings.ReplaceAll(text, "\x01", "\x01\x01")); err != nil {
		return fmt.Errorf("cannot type at the machine's console: %w", err)
	}
	return nil
}

// Tail returns the last n lines of the console that are not blank, without
// control sequences.
func (m *Machine) Tail(n int) string { return m.console.tail(n) }

// Close ends the machine, if it still runs, and waits until it is gone. It may be
// called again; the error is always nil.
func (m *Machine) Close() error {
	m.cancel()
	<-m.done
	return nil
}

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/ossify/ossify/pattern"
	"golang.org/x/term"
)

// Options says what to boot and how. The zero value of every field but Image
// is usable. What the guest writes goes to unnamed files in $TMPDIR (/var/tmp if
// that is not set), which can grow as large as the image.
type Options struct {
	// Image is the path of a raw, qcow2, vmdk, vdi, vpc or vhdx disk image.
	Image string
	// Accel is "auto" (also ""), "kvm" or "tcg". Auto takes KVM where it works.
	Accel string
	// Firmware is "bios" (also "") or "uefi".
	Firmware string
	// Memory of the machine in MiB; 0 means 1024.
	Memory int
	// CPUs of the machine; 0 means 1.
	CPUs int
	// Check makes Run wait for a sign of a finished boot and type nothing.
	Check bool
	// Timeout bounds Run with Check; 0 means five minutes.
	Timeout time.Duration
	// SSHPort of 127.0.0.1 leads to port 22 of the machine; 0 means none does.
	SSHPort int
	// Stdin is what Run types into an interactive machine; nil types nothing.
	Stdin io.Reader
	// Stdout gets the console as it comes, or with Check only the verdict.
	Stdout io.Writer
	// Stderr gets messages about the machine.
	Stderr io.Writer
}

// tailLines is how much of the console an error shows.
const tailLines = 30

// booted matches a finished boot. Anything may follow the prompt on its line: the
// kernel and systemd write there as well.
const booted = `(?m:^)(?:\S+ )?login: |Reached target [^\n]*(?:Multi-User|multi-user)`

// stuck matches consoles that will not get to a login prompt.
const stuck = `Kernel panic|No bootable (?:device|option)|grub rescue>|You are in emergency mode|\(initramfs\) $|Shell> $`

var (
	stuckPattern   = pattern.New(stuck)
	verdictPattern = pattern.New(stuck + "|" + booted)
)

// Run boots o.Image and returns when the machine has ended. With o.Check it
// returns as soon as the image has booted, or with an error that carries the
// end of the console. A read of o.Stdin may stay pending after Run returns.
func Run(ctx context.Context, o Options) error { return run(ctx, o, thisHost()) }

func run(ctx context.Context, o Options, h host) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	if o.Check {
		return check(ctx, o, h)
	}
	return interact(ctx, o, h)
}

// complete fills in defaults and refuses values no machine can have.
func (o Options) complete() (Options, error) {
	setDefault(&o.Accel, "auto")
	setDefault(&o.Firmware, "bios")
	setDefault(&o.Memory, 1024)
	setDefault(&o.CPUs, 1)
	setDefault(&o.Timeout, 5*time.Minute)
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	switch {
	case o.Image == "":
		return o, errors.New("no image given: name the disk image to boot")
	case o.Accel != "auto" && o.Accel != "kvm" && o.Accel != "tcg":
		return o, fmt.Errorf("unknown accelerator %q: use auto, kvm or tcg", o.Accel)
	case o.Firmware != "bios" && o.Firmware != "uefi":
		return o, fmt.Errorf("unknown firmware %q: use bios or uefi", o.Firmware)
	case o.Memory < 0:
		return o, fmt.Errorf("memory of %d MiB is negative", o.Memory)
	case o.CPUs < 0:
		return o, fmt.Errorf("number of processors %d is negative", o.CPUs)
	case o.SSHPort < 0 || o.SSHPort > 65535:
		return o, fmt.Errorf("there is no port %d: use 1 to 65535", o.SSHPort)
	case o.Timeout < 0:
		return o, fmt.Errorf("timeout %s is negative", o.Timeout)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// checkArch refuses hosts of other architectures, whose images are not x86-64.
func checkArch(goarch string) error {
	if goarch != "amd64" {
		return fmt.Errorf("cannot boot images on %s: only x86-64 hosts are supported", goarch)
	}
	return nil
}

func check(ctx context.Context, o Options, h host) error {
	limited, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	m, err := start(limited, o, h)
	if err != nil {
		return timeoutError(ctx, o, err)
	}
	defer m.Close()
	_, seen, err := m.expect(limited, verdictPattern())
	took := time.Since(m.started)
	if err != nil {
		return timeoutError(ctx, o, err)
	}
	if stuckPattern().MatchString(seen) {
		m.settle(limited) // the rest of the line helps to understand it
		return fmt.Errorf("%s does not boot (%s, %s): the console says %q\n%s",
			o.Image, m.accel, o.Firmware, seen, m.Tail(tailLines))
	}
	what := "login prompt"
	if strings.HasPrefix(seen, "Reached target") {
		what = "multi-user target"
	}
	if err := m.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Stdout, "boots: %s after %.1f s (%s, %s)\n", what, took.Seconds(), m.accel, o.Firmware)
	return err
}

// timeoutError tells our own limit from the caller's cancellation.
func timeoutError(ctx context.Context, o Options, err error) error {
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s does not boot: no login prompt within %s: %w", o.Image, o.Timeout, err)
	}
	return fmt.Errorf("boot %s: %w", o.Image, err)
}

func interact(ctx context.Context, o Options, h host) (err error) {
	fmt.Fprintln(o.Stderr, "Ctrl-A X ends the machine; its changes are thrown away")
	f, keyboard := o.Stdin.(*os.File)
	keyboard = keyboard && term.IsTerminal(int(f.Fd()))
	if keyboard {
		o.Stdout = &calm{w: o.Stdout}
	}
	m, err := start(ctx, o, h)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	// Raw mode only now: until the machine talks, Ctrl-C still interrupts us.
	if keyboard {
		before, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("cannot put the terminal into raw mode: %w", err)
		}
		defer func() {
			err = errors.Join(err, term.Restore(int(f.Fd()), before))
			fmt.Fprint(o.Stdout, "\x1b[0m\n") // the guest may have left a colour
		}()
	}
	if o.Stdin != nil {
		// Raw bytes, not Send: the user's Ctrl-A is meant for QEMU. The end of
		// the input must not close the pipe, a guest can do without a keyboard.
		go io.Copy(m.stdin, o.Stdin)
	}
	<-m.done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if m.exit != nil {
		return m.ended()
	}
	return nil
}

func thisHost() host {
	return host{arch: runtime.GOARCH, qemu: Emulator, probe: probeKVM, silence: 10 * time.Second, root: "/"}
}

package dpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// jail runs programs inside the tree. It is a thread in a mount namespace of
// its own, in which the tree has devices, processes and empty /run and /tmp;
// the tree itself and everybody else see none of these mounts.
type jail struct {
	root  string
	env   []string
	calls chan func()
	ended chan error
	// mounted are the mount points, in the order of mounting.
	mounted []string
	undo    []func() error
}

// devices are bound from the build root, since a user namespace cannot make
// device nodes.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// newJail mounts what programs in the tree need. The tree has the usual
// directories already. The caller closes the jail.
func newJail(root string, env []string) (*jail, error) {
	j := &jail{root: root, env: env, calls: make(chan func()), ended: make(chan error, 1)}
	ready := make(chan error)
	go j.serve(ready)
	if err := <-ready; err != nil {
		return nil, errors.Join(fmt.Errorf("prepare to run programs in the tree: %w", err), j.close())
	}
	return j, nil
}

// serve is the jail's thread. It never unlocks, so that the thread ends with
// it and the namespace with the thread.
func (j *jail) serve(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread never ends, and what others read as the mounts
		// of the process are its own: keep it busy and take another.
		done := make(chan struct{})
		go func() {
			defer close(done)
			j.serve(ready)
		}()
		<-done
		runtime.UnlockOSThread()
		return
	}
	ready <- j.enter()
	for call := range j.calls {
		call()
	}
	var errs []error
	for _, target := range slices.Backward(j.mounted) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	for _, undo := range slices.Backward(j.undo) {
		errs = append(errs, undo())
	}
	j.ended <- errors.Join(errs...)
}

// close kills what still runs in the tree, unmounts and cleans up.
func (j *jail) close() error {
	j.kill()
	close(j.calls)
	return <-j.ended
}

func (j *jail) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Scripts write the host's name into files; keep it out of them.
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for _, m := range []struct{ name, options string }{
		{"dev", "mode=755,size=64k"}, {"run", "mode=755"}, {"tmp", "mode=1777"},
	} {
		if err := j.mount("tmpfs", m.name, "tmpfs", unix.MS_NOSUID, m.options); err != nil {
			return err
		}
	}
	if err := j.mount("/proc", "proc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, name := range devices {
		if err := j.bindFile("/dev/"+name, "dev/"+name); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(j.root, "dev", name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"dev/shm", "dev/pts"} {
		if err := os.Mkdir(filepath.Join(j.root, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(j.root, "dev/shm"), 0o1777); err != nil {
		return err
	}
	if err := j.denyServices(); err != nil {
		return err
	}
	return ignoreSync()
}

func (j *jail) mount(source, name, kind string, flags uintptr, options string) error {
	target := filepath.Join(j.root, name)
	if st, err := os.Lstat(target); err != nil || !st.Mode().IsDir() && kind != "" {
		return fmt.Errorf("mount %s: the packages bring no directory /%s", name, name)
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount /%s: %w", name, err)
	}
	j.mounted = append(j.mounted, target)
	return nil
}

// bindFile makes the file source visible at name, which is created.
func (j *jail) bindFile(source, name string) error {
	f, err := os.OpenFile(filepath.Join(j.root, name), os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	f.Close()
	return j.mount(source, name, "", unix.MS_BIND, "")
}

// denyServices makes invoke-rc.d refuse every action (status 101, as
// invoke-rc.d(8) asks for) and start-stop-daemon do nothing.
func (j *jail) denyServices() error {
	for _, s := range []struct{ name, script string }{
		{"usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"},
		{"usr/sbin/start-stop-daemon", "#!/bin/sh\nexit 0\n"},
	} {
		source := filepath.Join(j.root, "dev", "."+filepath.Base(s.name))
		if err := os.WriteFile(source, []byte(s.script), 0o755); err != nil {
			return err
		}
		target := filepath.Join(j.root, s.name)
		if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
			j.undo = append(j.undo, func() error { return os.Remove(target) })
		}
		if err := j.bindFile(source, s.name); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program of the tree to its end, in "/" and with stdin, and then
// kills what it left running. out receives all its output.
func (j *jail) run(ctx context.Context, stdin []byte, env []string, out io.Writer, argv ...string) error {
	result := make(chan error, 1)
	j.calls <- func() { result <- j.exec(ctx, stdin, env, out, argv) }
	return <-result
}

func (j *jail) exec(ctx context.Context, stdin []byte, env []string, out io.Writer, argv []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Path, cmd.Err = argv[0], nil // a path of the tree, not of the build root
	cmd.Env = append(slices.Clone(j.env), env...)
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: j.root, Setsid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	w.Close()
	if errors.Is(err, syscall.ENOEXEC) {
		return fmt.Errorf("run %s: this machine cannot run the programs of the tree's architecture", argv[0])
	}
	if err != nil {
		return fmt.Errorf("run %s in the tree: %w", argv[0], err)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, r)
		copied <- err
	}()
	err = cmd.Wait()
	j.kill() // a daemon would hold the pipe, and the tree
	_ = r.SetReadDeadline(time.Now().Add(killWait))
	if copyErr := <-copied; err == nil && copyErr != nil {
		err = fmt.Errorf("read output of %s: %w", argv[0], copyErr)
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	return err
}

// killWait is how long the pipe of killed processes may stay open.
const killWait = 10 * time.Second

// kill kills all processes whose root is the tree (which takes CAP_KILL and
// CAP_SYS_PTRACE for those of other users).
func (j *jail) kill() {
	var root unix.Stat_t
	if unix.Stat(j.root, &root) != nil {
		return
	}
	for again := true; again; {
		again = false
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, proc := range procs {
			pid, err := strconv.Atoi(proc.Name())
			if err != nil {
				continue
			}
			var st unix.Stat_t
			if unix.Stat("/proc/"+proc.Name()+"/root", &st) != nil || st.Dev != root.Dev || st.Ino != root.Ino {
				continue
			}
			if unix.Kill(pid, unix.SIGKILL) == nil {
				again = true // it may have forked meanwhile
			}
		}
	}
}

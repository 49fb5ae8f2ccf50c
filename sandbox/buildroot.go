package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/ossify/ossify/overlay"
)

// DefaultCapabilities are what osbuild leaves to a stage that asks for nothing
// more (osbuild/pipeline.py).
var DefaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
	"CAP_FSETID", "CAP_IPC_LOCK", "CAP_LINUX_IMMUTABLE", "CAP_MAC_OVERRIDE", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
}

// UnknownCapabilities returns those of the names that this kernel has no
// capability for.
func UnknownCapabilities(names []string) []string {
	known := capabilities.KnownCapabilities()
	var unknown []string
	for _, name := range names {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// BuildRoot is the system whose tools a stage uses.
type BuildRoot struct {
	// Tree is the root directory of that system: "/" or a mounted tree.
	Tree string
	// Boot shows the tree's /boot and /ostree too; a build pipeline's may
	// hold boot loaders.
	Boot bool
	// Whole makes the tree itself the container's root, with a throw-away layer on it.
	Whole bool
}

// pythonPath is the interpreter of osbuild's modules.
const pythonPath = "/usr/bin/python3"

// HasPython says whether osbuild's modules can run here.
func (b *BuildRoot) HasPython() bool {
	_, err := os.Lstat(filepath.Join(b.Tree, pythonPath))
	return err == nil
}

// hasDir says whether a path of the tree leads to a directory of it.
func (b *BuildRoot) hasDir(path string) bool {
	f, err := openInside(b.Tree, path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	return err == nil && st.IsDir()
}

// rootLinks are the links into /usr of a merged-/usr system.
var rootLinks = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// etcImports are the paths below /etc that tools need as the build root has
// them: osbuild's own, and Debian's alternatives, or awk and friends dangle.
var etcImports = []string{"etc/mke2fs.conf", "etc/containers", "etc/selinux", "etc/alternatives"}

// skeleton lays out the parts of a build root that are kept in its layer:
// mount points and links.
func (b *BuildRoot) skeleton() []Op {
	ops := []Op{
		Dir{Target: "/etc", Mode: 0o755},
		Dir{Target: "/usr", Mode: 0o755},
		Dir{Target: "/dev", Mode: 0o755},
		Dir{Target: "/proc", Mode: 0o555},
		Dir{Target: "/sys", Mode: 0o555},
		Dir{Target: "/run", Mode: 0o755},
		Dir{Target: "/root", Mode: 0o700},
		Dir{Target: "/tmp", Mode: 0o777 | os.ModeSticky},
		Dir{Target: "/var", Mode: 0o755},
		Dir{Target: "/var/tmp", Mode: 0o777 | os.ModeSticky},
	}
	for _, name := range rootLinks {
		if b.hasDir(filepath.Join("usr", name)) {
			ops = append(ops, Symlink{To: "usr/" + name, Target: "/" + name})
		}
	}
	return ops
}

// ops lays out a container on this build root. stack holds the build root's
// layer with a throw-away upper directory.
func (b *BuildRoot) ops(stack *overlay.Stack) []Op {
	ops := []Op{Overlay{Stack: stack, Target: "/"}}
	if b.Whole {
		for _, path := range wholeDirs {
			ops = append(ops, Dir{Target: path, Mode: 0o755})
		}
		return append(ops, b.shortLived()...)
	}
	ops = append(ops, Bind{Within: b.Tree, Source: "usr", Target: "/usr"})
	if b.Boot {
		ops = append(ops,
			Bind{Within: b.Tree, Source: "boot", Target: "/boot", Optional: true},
			Bind{Within: b.Tree, Source: "ostree", Target: "/ostree", Optional: true})
	}
	for _, path := range etcImports {
		ops = append(ops, Bind{Within: b.Tree, Source: path, Target: "/" + path, Optional: true})
	}
	return append(ops, b.shortLived()...)
}

// wholeDirs are what the tree of a whole system needs for being mounted on.
var wholeDirs = []string{"/dev", "/proc", "/sys", "/run", "/tmp"}

// checkWhole refuses a tree in which no program can run, and one whose mount points
// lead elsewhere.
func (b *BuildRoot) checkWhole() error {
	for _, path := range wholeDirs {
		if st, err := os.Lstat(filepath.Join(b.Tree, path)); err == nil && !st.IsDir() {
			return fmt.Errorf("the tree cannot be run in: its %s is no directory", path)
		}
	}
	for _, path := range []string{"usr/bin", "bin"} {
		if st, err := os.Lstat(filepath.Join(b.Tree, path)); err == nil && st.IsDir() {
			return nil
		}
	}
	return errors.New("the tree cannot be run in: it is no whole system, it has neither /usr/bin nor /bin")
}

// shortLived lays out what a container has in memory.
func (b *BuildRoot) shortLived() []Op {
	return []Op{
		Tmpfs{Target: "/tmp", Mode: 0o1777},
		Tmpfs{Target: "/run", Mode: 0o755, Shared: true},
		Dir{Target: "/run/lock", Mode: 0o755}, // where /var/lock leads
		cmdline,
	}
}

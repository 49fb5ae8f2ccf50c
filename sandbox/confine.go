package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// Confinement is what a source has of this machine besides the network: its system,
// and what is named here.
//
//	engine                               again, in namespaces of its own     the service
//	  | lays out Dir/root
//	  | clone: user, mounts, pids, ipc ->| /proc, pivot_root
//	  |                                  | descriptors, keys, capabilities
//	  | <-- what went wrong, if anything | exec ---------------------------> |
//	  | method ----------------------------------------------------------->  |
//
// The mounts are made by the engine and locked for the service, whatever it does in
// user namespaces of its own.
type Confinement struct {
	// Dir is an empty directory on disk, which the caller removes after Close. The
	// service has a folder of it as /var/tmp.
	Dir string
	// Show is what the service sees as well; what is not there is left out, and what
	// it sees anyhow.
	Show []Bind
	// Own are directories that it may change, at their own paths.
	Own []string
	// Files that are made for it.
	Files []File
	// Env is added to what every confined service has.
	Env []string
	// Capabilities that it keeps in its user namespace; best none.
	Capabilities []string
}

// systemFiles are what programs that use the network need of /etc: how names are found,
// which certificates are good, who is who. There is nothing secret in them.
var systemFiles = []string{
	"resolv.conf", "hosts", "host.conf", "gai.conf", "nsswitch.conf", "services", "protocols",
	"passwd", "group", "localtime", "os-release", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives",
	"ssl/certs", "ssl/cert.pem", "ssl/ca-bundle.pem", "ssl/openssl.cnf", "ca-certificates", "crypto-policies", "gnutls",
	"pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/rpm-gpg",
}

// systemCertificates is where SUSE's /etc/ssl leads.
const systemCertificates = "/var/lib/ca-certificates"

// ConfinedHome is HOME of confined services: nobody's, and empty but for what is shown there.
const ConfinedHome = "/tmp"

// ops lays out the file tree of the service.
func (c *Confinement) ops() ([]Op, error) {
	ops := []Op{Tmpfs{Target: "/", Mode: 0o755}}
	var seen []string // what is there from the host, by its own path
	for _, name := range append([]string{"usr"}, rootLinks...) {
		path := "/" + name
		st, err := os.Lstat(path)
		switch {
		case err != nil:
			continue
		case st.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return nil, err
			}
			ops = append(ops, Symlink{To: to, Target: path})
		default:
			ops = append(ops, Bind{Source: path, Target: path})
		}
		seen = append(seen, path)
	}
	for _, path := range append(inEtc(systemFiles), systemCertificates) {
		if _, err := os.Stat(path); err == nil {
			ops, seen = append(ops, Bind{Source: path, Target: path}), append(seen, path)
		}
	}
	ops = append(ops,
		Dir{Target: "/proc", Mode: 0o555},
		Tmpfs{Target: "/tmp", Mode: 0o1777},
		Bind{Source: filepath.Join(c.Dir, "tmp"), Target: "/var/tmp", Writable: true},
		Dir{Target: "/run", Mode: 0o755},
		Dir{Target: "/dev", Mode: 0o755},
		Symlink{To: "/proc/self/fd", Target: "/dev/fd"},
	)
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		ops = append(ops, Bind{Source: "/dev/" + name, Target: "/dev/" + name, Writable: true, Devices: true})
	}
	ops = append(ops, Tmpfs{Target: "/dev/shm", Mode: 0o1777})
	for _, b := range c.Show {
		_, err := os.Stat(b.Source)
		if err != nil || slices.ContainsFunc(seen, func(dir string) bool { return isBelow(b.Target, dir) }) {
			continue // the service says what it misses
		}
		ops, seen = append(ops, b), append(seen, b.Target)
	}
	for _, dir := range c.Own {
		ops = append(ops, Bind{Source: dir, Target: dir, Writable: true})
	}
	for _, f := range c.Files {
		ops = append(ops, f)
	}
	return ops, nil
}

func inEtc(names []string) []string {
	paths := make([]string, 0, len(names))
	for _, name := range names {
		paths = append(paths, "/etc/"+name)
	}
	return paths
}

// isBelow says whether path is dir or below it.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// networkVariables say how the network is reached; each may be in upper case.
var networkVariables = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// authorityVariables name certificates of authorities, as OpenSSL, Go and curl have it.
var authorityVariables = []string{"SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"}

// environment is what the service starts with. Of the user's own it has what says how
// the network is reached; what those variables name is shown to it.
func (c *Confinement) environment(libdir string) (env []string, show []Bind) {
	env = append(environment(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME="+ConfinedHome,
		"PYTHONPATH="+libdir, "PYTHONUNBUFFERED=1")
	var names []string
	for _, name := range networkVariables {
		names = append(names, name, strings.ToUpper(name))
	}
	for _, name := range append(names, authorityVariables...) {
		value, ok := os.LookupEnv(name)
		if !ok {
			continue
		}
		env = append(env, name+"="+value)
		if slices.Contains(authorityVariables, name) {
			for _, path := range filepath.SplitList(value) {
				if filepath.IsAbs(path) {
					show = append(show, Bind{Source: path, Target: filepath.Clean(path)})
				}
			}
		}
	}
	return append(env, c.Env...), show
}

// showProgram shows a libdir and what links in it lead to: the Python package, the
// service itself.
func showProgram(path, libdir string) []Bind {
	var show []Bind
	if libdir != "" {
		show = append(show, Bind{Source: libdir, Target: libdir})
		for _, link := range []string{filepath.Join(libdir, "osbuild"), filepath.Dir(path)} {
			show = append(show, behindLink(link)...)
		}
	} else {
		show = append(show, Bind{Source: filepath.Dir(path), Target: filepath.Dir(path)})
	}
	return append(show, behindLink(path)...)
}

// behindLink shows what path leads to, if it is a symbolic link.
func behindLink(path string) []Bind {
	to, err := os.Readlink(path)
	if err != nil {
		return nil
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	return []Bind{{Source: path, Target: filepath.Clean(to)}}
}

// layout lays out the tree and returns its root.
func (c *Confinement) layout(show []Bind) (root string, undo func() error, err error) {
	all := *c
	all.Show = append(show, c.Show...)
	ops, err := all.ops()
	if err != nil {
		return "", nil, err
	}
	root = filepath.Join(c.Dir, "root")
	for _, dir := range []string{root, filepath.Join(c.Dir, "tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", nil, err
		}
	}
	undo, err = Layout(root, ops)
	return root, undo, err
}

// confined is what a process needs to know to become a confined service.
type confined struct {
	Root, Dir    string
	Capabilities []string
	Args         []string
}

// StartConfined is StartService for a service that has nothing of this machine but the
// network and what c names. Its working directory has to be there for it as well.
func StartConfined(ctx context.Context, path, libdir, dir, id string, c *Confinement) (_ *Service, err error) {
	s, theirs, err := newService(ctx, path)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			s.conn.Close()
			if s.undo != nil {
				err = errors.Join(err, s.undo())
			}
		}
	}()
	env, show := c.environment(libdir)
	root, undo, err := c.layout(append(showProgram(path, libdir), show...))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	s.undo = undo
	arg, err := json.Marshal(confined{Root: root, Dir: dir, Capabilities: c.Capabilities, Args: serviceArgs(path, id)})
	if err != nil {
		return nil, err
	}
	uid, err := nestedMap("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	gid, err := nestedMap("/proc/self/gid_map")
	if err != nil {
		return nil, err
	}
	status, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer status.Close()
	s.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{confinedName, string(arg)}, Env: env,
		ExtraFiles: []*os.File{theirs, writer},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
			UidMappings: processMap(uid), GidMappings: processMap(gid), GidMappingsEnableSetgroups: true,
		},
	}
	err = s.start()
	writer.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: make its namespaces: %w", s.name, err)
	}
	// The other end is closed when the service runs, or nothing does any more.
	said, err := io.ReadAll(io.LimitReader(status, maxSaid))
	if err == nil && len(said) == 0 {
		return s, nil
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
	if !s.stop() {
		<-s.aborted
		return nil, context.Cause(ctx)
	}
	if err == nil {
		err = setupError(path, string(said))
	}
	return nil, fmt.Errorf("start %s: %w", s.name, err)
}

// setupError is what a process has said that could not become the service at path.
func setupError(path, said string) error {
	number, text, _ := strings.Cut(said, " ")
	errno, err := strconv.Atoi(number)
	if err != nil || errno == 0 {
		return fmt.Errorf("confine it: %s", said)
	}
	if text == execFailed {
		return startError(path, &os.PathError{Op: "fork/exec", Path: path, Err: syscall.Errno(errno)})
	}
	return fmt.Errorf("confine it: %s", text)
}

// processMap is a map of ids as the start of a process has it.
func processMap(ids []configs.IDMap) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range ids {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

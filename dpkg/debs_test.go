package dpkg

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// testDeb describes a package to build.
type testDeb struct {
	// control is the control file without the fields Maintainer and
	// Description; Version and Architecture have defaults.
	control string
	// members are other control files by name; scripts get mode 0755.
	members map[string]string
	files   []testFile
	// suffix is the compression of the archives, such as ".xz".
	suffix string
}

// testFile is a member of the data archive. A path that ends in a slash is a
// directory, link makes it a symbolic link, hard a hard link.
type testFile struct {
	path, data, link, hard string
	mode                   int64
	uid, gid               int
	uname, gname           string
}

// build returns the package's bytes.
func (d testDeb) build(t testing.TB) []byte {
	t.Helper()
	control := strings.TrimSpace(d.control) + "\n"
	for _, field := range []string{"Version: 1.0", "Architecture: " + hostArch(t), "Maintainer: Nobody <nobody@example.org>", "Description: test"} {
		if name, _, _ := strings.Cut(field, ":"); !strings.Contains("\n"+control, "\n"+name+":") {
			control += field + "\n"
		}
	}
	members := []testFile{{path: "./"}, {path: "./control", data: control, mode: 0o644}}
	for _, name := range slices.Sorted(keys(d.members)) {
		mode := int64(0o644)
		if strings.HasPrefix(d.members[name], "#!") {
			mode = 0o755
		}
		members = append(members, testFile{path: "./" + name, data: d.members[name], mode: mode})
	}
	// Directories come before what is in them.
	files := []testFile{{path: "./"}}
	seen := map[string]bool{"./": true}
	for _, f := range d.files {
		full := "." + f.path
		for i, c := range full {
			if dir := full[:i+1]; c == '/' && dir != full && !seen[dir] {
				seen[dir] = true
				files = append(files, testFile{path: dir})
			}
		}
		seen[full] = true
		f.path = full
		files = append(files, f)
	}
	var out bytes.Buffer
	out.WriteString(arMagic)
	add := func(name string, data []byte) {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
		out.Write(data)
		if len(data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	add("debian-binary", []byte("2.0\n"))
	add("control.tar"+d.suffix, pack(t, members, d.suffix))
	add("data.tar"+d.suffix, pack(t, files, d.suffix))
	return out.Bytes()
}

// write writes the package to a file of dir, named by its first line.
func (d testDeb) write(t testing.TB, dir string) string {
	t.Helper()
	name := strings.TrimPrefix(strings.SplitN(strings.TrimSpace(d.control), "\n", 2)[0], "Package: ")
	path := filepath.Join(dir, name+".deb")
	if err := os.WriteFile(path, d.build(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func pack(t testing.TB, files []testFile, suffix string) []byte {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, f := range files {
		h := &tar.Header{
			Name: f.path, Mode: f.mode, Uid: f.uid, Gid: f.gid, Uname: f.uname, Gname: f.gname,
			Typeflag: tar.TypeReg, Size: int64(len(f.data)), ModTime: time.Unix(1600000000, 0), Format: tar.FormatGNU,
		}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case f.hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, "."+f.hard
		case strings.HasSuffix(f.path, "/"):
			h.Typeflag = tar.TypeDir
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		case h.Mode == 0:
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var z interface {
		Write([]byte) (int, error)
		Close() error
	}
	var err error
	switch suffix {
	case "":
		return plain.Bytes()
	case ".gz":
		z = gzip.NewWriter(&out)
	case ".zst":
		z, err = zstd.NewWriter(&out)
	case ".xz":
		z, err = xz.WriterConfig{BlockSize: 4096}.NewWriter(&out)
	}
	if err == nil {
		if _, err = z.Write(plain.Bytes()); err == nil {
			err = z.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func hostArch(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Fatalf("these tests need a Debian machine: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// systemDeb is the essential package of the tests: this machine's dpkg, shell
// and other tools with their libraries.
func systemDeb(t testing.TB) testDeb {
	t.Helper()
	version, err := exec.Command("dpkg-query", "--show", "--showformat", "${Version}", "dpkg").Output()
	if err != nil {
		t.Fatal(err)
	}
	d := testDeb{control: "Package: dpkg\nEssential: yes\nVersion: " + string(version), suffix: ".zst", files: []testFile{
		{path: "/dev/"}, {path: "/proc/"}, {path: "/run/"}, {path: "/sys/"}, {path: "/tmp/", mode: 0o1777},
		{path: "/root/", mode: 0o700}, {path: "/var/log/"}, {path: "/var/lib/dpkg/info/"}, {path: "/var/lib/dpkg/alternatives/"},
		{path: "/etc/passwd", data: "root:x:0:0:root:/root:/bin/sh\n"},
		{path: "/etc/group", data: "root:x:0:\n"},
	}}
	seen := map[string]bool{}
	add := func(file string) {
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(real)
		if err != nil {
			t.Fatal(err)
		}
		// The same file by two names is not wanted twice.
		if !strings.HasPrefix(file, "/usr/") && !strings.HasPrefix(file, "/lib64/") {
			file = "/usr" + file
		}
		// Ours is mounted over the one in /usr/sbin, which would be in the way
		// of the dpkg that TestAsDpkg compares with.
		file = strings.Replace(file, "/usr/sbin/start-stop-daemon", "/usr/bin/start-stop-daemon", 1)
		if !seen[file] {
			seen[file] = true
			d.files = append(d.files, testFile{path: path.Clean(file), data: string(data), mode: 0o755})
		}
	}
	for _, name := range []string{"dpkg", "dpkg-query", "dpkg-deb", "dpkg-divert", "dpkg-statoverride", "dpkg-split", "dpkg-trigger",
		"start-stop-daemon", "sh", "tar", "rm", "cat", "mkdir", "sleep", "ls", "diff", "id", "chown", "chmod", "readlink", "ldconfig", "uname"} {
		found := ""
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"} {
			if _, err := os.Stat(dir + "/" + name); err == nil {
				found = dir + "/" + name
				break
			}
		}
		if found == "" {
			t.Fatalf("this machine has no %s", name)
		}
		add(found)
		program, err := elf.Open(found)
		if err != nil {
			continue
		}
		program.Close()
		out, err := exec.Command("ldd", found).CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) {
			t.Fatalf("ldd %s: %v", found, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				add(strings.TrimSuffix(word, ":"))
			}
		}
	}
	return d
}

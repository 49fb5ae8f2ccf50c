package selinux

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// TestLookup has what setfiles of libselinux 3.4 makes of the same rules.
func TestLookup(t *testing.T) {
	c, err := Load("testdata/file_contexts", OpenHost)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind uint32
		want string
	}{
		{"/", unix.S_IFDIR, "root_t"},
		{"/x", unix.S_IFREG, "default_t"},
		{"/new\nline", unix.S_IFREG, "default_t"},
		{"/etc", unix.S_IFDIR, "etc_t"},
		{"/etcetera", unix.S_IFDIR, "default_t"},
		{"/etc/a/b", unix.S_IFREG, "etc_t"},
		{"/etc/shadow-", unix.S_IFREG, "shadow_t"},
		{"/etc/shadow-", unix.S_IFLNK, "etc_t"},
		{"/etc/motd", unix.S_IFREG, "motd_t"}, // a plain path goes before a pattern
		{"/etc/motd2", unix.S_IFREG, "m_t"},
		{"/etc/local.conf", unix.S_IFREG, "local_t"},
		{"/usr/bin", unix.S_IFDIR, "bin_t"},
		{"/usr/x/y/bin/z", unix.S_IFREG, "bin_t"},
		{"/usr/lib/libc.so.6", unix.S_IFREG, "lib_t"},
		{"/usr/lib/libc_so", unix.S_IFREG, "default_t"},
		{"/usr/lib/y", unix.S_IFREG, "xy_t"},
		{"/usr/lib/xy", unix.S_IFREG, "xy_t"},
		{"/usr/b", unix.S_IFREG, "ab_t"},
		{"/usr/local/lib/libc.so", unix.S_IFREG, "lib_t"},
		{"/proc/1", unix.S_IFDIR, ""},
		{"/dev/null", unix.S_IFCHR, "null_device_t"},
		{"/dev/null", unix.S_IFREG, "default_t"},
		{"/run/x", unix.S_IFIFO, "fifo_t"},
		{"/run/x", unix.S_IFSOCK, "socket_t"},
		{"/run/x", unix.S_IFBLK, "block_t"},
		{"/run/x", unix.S_IFLNK, "link_t"},
		{"/d.d/x+y", unix.S_IFREG, "plus_t"},
		{"/dxd/x+y", unix.S_IFREG, "default_t"},
		{"/word/a_1", unix.S_IFREG, "word_t"},
		{"/home/ada/.ssh/id", unix.S_IFREG, "ssh_home_t"},
		{"/myhome/ada/.ssh", unix.S_IFDIR, "ssh_home_t"},
		{"/all/etc/motd", unix.S_IFREG, "motd_t"},
		{"/all", unix.S_IFDIR, "root_t"},
	} {
		got, ok, err := c.Lookup(test.path, test.kind|0o644)
		if err != nil {
			t.Fatal(err)
		}
		if ok != (test.want != "") {
			t.Errorf("%q: has a context: %v", test.path, ok)
		}
		if ok && got != "system_u:object_r:"+test.want+":s0" {
			t.Errorf("%q: got %s, want %s", test.path, got, test.want)
		}
	}
}

func TestNoRule(t *testing.T) {
	c, err := load("/etc/x a_t\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := c.Lookup("/etc/y", unix.S_IFREG); ok || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func load(rules string) (*Contexts, error) {
	files := fstest.MapFS{"f": {Data: []byte(rules)}}
	return Load("f", func(path string) (fs.File, error) { return files.Open(path) })
}

func TestErrors(t *testing.T) {
	for rules, want := range map[string]string{
		"# only\n/etc\n":    "f:2: expected PATTERN [TYPE] CONTEXT",
		"/etc -x etc_t\n":   `f:1: unknown file type "-x"`,
		"/etc(/.* -- x_t\n": "pattern /etc(/.*",
	} {
		c, err := load(rules)
		if err == nil {
			_, _, err = c.Lookup("/etc/x", unix.S_IFREG)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", rules, err, want)
		}
	}
	if _, err := Load("testdata/nowhere", OpenHost); err == nil || !strings.Contains(err.Error(), "testdata/nowhere") {
		t.Errorf("without a file: %v", err)
	}
}

// FuzzLookup: a prefix never hides a rule that matches.
func FuzzLookup(f *testing.F) {
	for _, rules := range []string{"/etc(/.*)? x", "/a|/b -- x", "/a\\.b?c x", "/[^/]+/x{2} x"} {
		f.Add(rules, "/etc/a")
	}
	f.Fuzz(func(t *testing.T, rules, path string) {
		if !strings.HasPrefix(path, "/") || len(path) > 100 || len(rules) > 100 {
			return
		}
		c, err := load(rules)
		if err != nil || len(c.rules) == 0 || len(c.local)+len(c.dist) > 0 {
			return
		}
		_, ok, err := c.Lookup(path, 0)
		if err != nil {
			return
		}
		for i := range c.rules {
			r := &c.rules[i]
			if r.kind != 0 || r.context == none {
				return
			}
			match, err := r.match(path)
			if err != nil {
				return
			}
			if match && !ok {
				t.Fatalf("%q matches %q, whose prefix is %q", r.text, path, r.prefix)
			}
		}
	})
}

package store_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/ossify/ossify/store"
	"golang.org/x/sys/unix"
)

// TestHardLinks runs scripts on layers, each on one of its own, and in a plain
// directory: the trees have to be the same.
func TestHardLinks(t *testing.T) {
	base := `mkdir a b; echo one >a/x; ln a/x b/y; ln a/x b/z; echo other >b/single; ln b/single b/double
		touch -d @1000000000 a/x b/single a b .`
	for name, scripts := range map[string][]string{
		"nothing":                        {`true`},
		"mode":                           {`chmod 600 a/x`},
		"owner of all":                   {`chown -R 5:6 .`},
		"mode and owner by other names":  {`chmod 4711 a/x; chown 5:6 b/y; chmod 4711 b/z`},
		"attribute":                      {`setfattr -n user.note -v hello b/z`},
		"attributes by other names":      {`setfattr -n user.note -v hello b/z; setfattr -n user.second -v x a/x`},
		"attribute removed":              {`setfattr -n user.note -v hello b/z`, `setfattr -x user.note a/x; chmod 600 b/y`},
		"appended":                       {`echo more >>a/x`},
		"emptied":                        {`: >b/y`},
		"appended, mode by another name": {`echo more >>a/x; chmod 600 b/y`},
		"replaced":                       {`cp a/x new; echo more >>new; mv new a/x`},
		"removed and made anew":          {`rm a/x; echo fresh >a/x`},
		"one removed, mode of another":   {`rm b/y; chmod 600 a/x`},
		"all but one removed":            {`rm a/x b/y; chmod 600 b/z`},
		"one more name":                  {`ln b/y c`},
		"one more name, mode":            {`ln b/y c; chmod 600 a/x`},
		"more names, mode of both":       {`ln b/y c; ln a/x e; chmod 600 a/x; chown 5:6 c`},
		"folder made anew":               {`rm -r b; mkdir b; echo new >b/y; chmod 600 a/x`},
		"copied with its time":           {`cp -a a/x copy; chmod 600 copy`},
		"two files":                      {`chmod 600 a/x b/double`},
		"three layers":                   {`chmod 600 a/x`, `chown 7:8 b/z`, `echo end >>b/y`},
		"linked in a later layer":        {`mkdir d; echo two >d/p; touch -d @1000000000 d/p d`, `ln d/p d/q; touch -d @1000000000 d`, `chmod 600 d/p`},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, tempDir(t))
			defer s.Close()
			plain := tempDir(t)
			if err := os.Chmod(plain, 0o755); err != nil {
				t.Fatal(err)
			}
			var layer *store.Layer
			for i, script := range append([]string{base}, scripts...) {
				shell(t, plain, script)
				layer = change(t, s, layer, fmt.Sprintf("stage-%d", i), script)
			}
			stack, err := s.ReadOnly(layer)
			if err != nil {
				t.Fatal(err)
			}
			target := tempDir(t)
			unmount, err := stack.Mount(target)
			if err != nil {
				t.Fatal(err)
			}
			defer unmount()
			if got, want := describe(t, target), describe(t, plain); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// change makes a layer on base with what the script does to the tree.
func change(t *testing.T, s *store.Store, base *store.Layer, name, script string) *store.Layer {
	t.Helper()
	l, err := s.Create(base, "k", store.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	if base != nil {
		if err := s.Inherit(l, base); err != nil {
			t.Fatal(err)
		}
	}
	stack, err := s.Writable(l)
	if err != nil {
		t.Fatal(err)
	}
	target := tempDir(t)
	// As in a container, nobody unmounts it with what Mount returns.
	if _, err := stack.Mount(target); err != nil {
		t.Fatal(err)
	}
	shell(t, target, script)
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(l, name, nil, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// describe has a line for each path below dir, with the first name of the same
// file; times of today are all the same.
func describe(t *testing.T, dir string) string {
	t.Helper()
	first := map[uint64]string{}
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if first[st.Ino] == "" {
			first[st.Ino] = name
		}
		when := "today"
		if modified := time.Unix(st.Mtim.Unix()); time.Since(modified) > 24*time.Hour {
			when = fmt.Sprint(modified.Unix())
		}
		line := fmt.Sprintf("%s: %o %d:%d %s", name, st.Mode, st.Uid, st.Gid, when)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" same as %s %q", first[st.Ino], data)
			for _, attr := range []string{"user.note", "user.second"} {
				value := make([]byte, 100)
				if n, err := unix.Lgetxattr(path, attr, value); err == nil {
					line += fmt.Sprintf(" %s=%s", attr, value[:n])
				}
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

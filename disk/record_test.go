package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ossify/ossify/record"
)

const label = "system_u:object_r:label_t:s0"

// TestRecord labels every kind of file, also those whose other attributes fill
// the inode, and sets flags; a part of it lies on another filesystem.
func TestRecord(t *testing.T) {
	tree := kinds(t)
	put(t, tree, `quo"te and space`, "q")
	must(t, os.Mkdir(filepath.Join(tree, "dev"), 0o755))
	r := record.Record{
		"/boot":               {Label: label + ":boot"},
		"/boot/efi":           {Label: label + ":efi"},
		"/boot/grub/grub.cfg": {Label: label + ":cfg", Flags: record.Immutable},
		"/boot/lost+found":    {Label: label + ":lost"},
		"/dev/null":           {Label: label, Device: record.Device{Kind: 'c', Major: 1, Minor: 3, Mode: 0o666, GID: 5}},
		"/etc/sda1":           {Device: record.Device{Kind: 'b', Major: 8, Minor: 1, Mode: 0o660, GID: 6}},
		"/etc/acl":            {Device: record.Device{Kind: 'b'}},
		"/nowhere":            {Label: label},
		"/usr":                {Flags: record.Immutable},
		"/etc/empty":          {Flags: record.Append | record.Immutable},
	}
	labelled := []string{"/", "/etc/acl", "/usr/bin/ping", "/usr/bin/su", "/link1", "/link59", "/link60", "/link300", "/fifo",
		"/dev/null", "/socket", "/sparse", `/quo"te and space`, "/usr", "/etc/empty", "/lost+found"}
	for _, name := range labelled {
		e := r[name]
		e.Label = label
		r[name] = e
	}
	image := write(t, Spec{Tree: tree, Record: r, Layout: gptLayout(), Format: Format{Name: "raw"}})
	l, err := gptLayout().Resolve()
	must(t, err)
	root, boot := l.Partitions[4].startBytes(), l.Partitions[2].startBytes()
	fsck(t, image, root)
	fsck(t, image, boot)
	want := fmt.Sprintf("security.selinux (%d) = \"%s\\000\"", len(label)+1, label)
	for _, name := range append(labelled, "/usr/bin/hard link") {
		if got := debugStat(t, image, root, name); !strings.Contains(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name, want := range map[string]string{
		"/etc/acl":      "user.large (2500)",
		"/usr/bin/ping": "security.capability (20)",
		"/":             `user.root (1) = "r"`,
		"/usr":          "Flags: 0x80010",
		"/etc/empty":    "Flags: 0x80030",
		"/boot":         label + ":boot",
		"/dev/null":     "Type: character special    Mode:  0666",
		"/etc/sda1":     "Type: block special    Mode:  0660",
	} {
		if got := debugStat(t, image, root, name); !strings.Contains(got, want) {
			t.Errorf("%s has no %s: %s", name, want, got)
		}
	}
	for name, want := range map[string]string{"/": ":boot", "/grub/grub.cfg": ":cfg", "/efi": ":efi", "/lost+found": ":lost"} {
		if got := debugStat(t, image, boot, name); !strings.Contains(got, label+want) {
			t.Errorf("%s of /boot: %s", name, got)
		}
	}
	if got := debugStat(t, image, boot, "/grub/grub.cfg"); !strings.Contains(got, "Flags: 0x80010") {
		t.Errorf("grub.cfg of /boot: %s", got)
	}
	again := write(t, Spec{Tree: tree, Record: r, Layout: gptLayout(), Format: Format{Name: "raw"}})
	if one, two := output(t, "sha256sum", image), output(t, "sha256sum", again); one[:64] != two[:64] {
		t.Error("the second image has other bytes")
	}
}

func debugStat(t *testing.T, image string, offset int64, name string) string {
	t.Helper()
	quoted, err := debugfsQuote(name)
	must(t, err)
	return output(t, "debugfs", "-R", "stat "+quoted, fmt.Sprintf("%s?offset=%d", image, offset))
}

func TestRecordRefused(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	put(t, tree, "a\nb", "x")
	spec := Spec{Tree: tree, Record: record.Record{"/a\nb": {Label: label}}, Layout: mbrLayout(64), Format: Format{Name: "raw"}}
	spec.Output = filepath.Join(t.TempDir(), "disk")
	if err := Write(context.Background(), spec); err == nil || !strings.Contains(err.Error(), `"/a\nb" cannot be given an SELinux label`) {
		t.Errorf("a line end in a name: %v", err)
	}
	spec.Layout.Partitions[0].Filesystem.Type = "xfs"
	if err := Write(context.Background(), spec); err == nil || !strings.Contains(err.Error(), "/ is to be xfs, which cannot be given SELinux labels") {
		t.Errorf("xfs: %v", err)
	}
	if _, err := os.Lstat(spec.Output); err == nil {
		t.Error("an image was left behind")
	}
}

package disk

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layoutCase is a file of testdata/layout: a layout and either the partitions
// it resolves to, one line each, or what the error says.
type layoutCase struct {
	About  string    `json:"about"`
	Table  TableType `json:"pttype"`
	UUID   string    `json:"ptuuid"`
	Size   int64     `json:"size"`
	Parts  []Partition
	Want   []string `json:"want"`
	Error  string   `json:"error"`
	Holder map[string]string
}

func TestResolve(t *testing.T) {
	files, err := filepath.Glob("testdata/layout/*.json")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no cases in testdata/layout")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			must(t, err)
			var c layoutCase
			must(t, json.Unmarshal(data, &c))
			l := Layout{TableType: c.Table, UUID: c.UUID, Size: c.Size, Partitions: c.Parts}
			got, err := l.Resolve()
			if c.Error != "" {
				if err == nil || !strings.Contains(err.Error(), c.Error) {
					t.Fatalf("%s: got error %v, want one with %q", c.About, err, c.Error)
				}
				return
			}
			must(t, err)
			var lines []string
			for _, p := range got.Partitions {
				line := fmt.Sprintf("%d+%d %s", p.Start, p.Size, p.Type)
				if p.UUID != "" {
					line += " " + p.UUID
				}
				lines = append(lines, line)
			}
			if strings.Join(lines, "\n") != strings.Join(c.Want, "\n") {
				t.Errorf("%s: got\n%s\nwant\n%s", c.About, strings.Join(lines, "\n"), strings.Join(c.Want, "\n"))
			}
			again, err := got.Resolve()
			must(t, err)
			if a, b := fmt.Sprint(flat(got)), fmt.Sprint(flat(again)); a != b {
				t.Errorf("%s: resolving twice gives\n%s, once\n%s", c.About, b, a)
			}
			for name, want := range c.Holder {
				p, inside := got.holder(name)
				if have := p.Filesystem.Mountpoint + " " + inside; have != want {
					t.Errorf("%s: %s is held by %q, want %q", c.About, name, have, want)
				}
			}
		})
	}
}

func flat(l Layout) []any {
	var out []any
	for _, p := range l.Partitions {
		fs := p.Filesystem
		p.Filesystem = nil
		out = append(out, p)
		if fs != nil {
			out = append(out, *fs)
		}
	}
	return out
}

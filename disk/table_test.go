package disk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable writes tables and lets sfdisk read them.
func TestTable(t *testing.T) {
	for name, l := range map[string]Layout{
		"mbr":     mbrLayout(100),
		"gpt":     gptLayout(),
		"mbr-big": {TableType: MBR, UUID: "1", Size: 2 << 40, Partitions: []Partition{{Filesystem: mbrLayout(1).Partitions[0].Filesystem}}},
		"gpt-big": {TableType: GPT, UUID: diskUUID, Size: 3 << 40, Partitions: []Partition{{Filesystem: mbrLayout(1).Partitions[0].Filesystem}}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := l.Resolve()
			must(t, err)
			image := filepath.Join(t.TempDir(), "disk")
			must(t, makeSparse(image, l.Size))
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			must(t, writeTable(f, &l))

			if out := output(t, "sfdisk", "--verify", image); !strings.Contains(out, "No errors detected") {
				t.Errorf("sfdisk --verify: %s", out)
			}
			checkTable(t, image, &l)
		})
	}
}

// checkTable compares a layout with what sfdisk reads from an image.
func checkTable(t *testing.T, image string, l *Layout) {
	t.Helper()
	var got struct {
		Table struct {
			Label, ID  string
			Partitions []struct {
				Start, Size             int64
				Type, UUID, Name, Attrs string
				Bootable                bool
			}
		} `json:"partitiontable"`
	}
	must(t, json.Unmarshal([]byte(output(t, "sfdisk", "--json", image)), &got))
	label, id := "gpt", l.UUID
	if l.TableType == MBR {
		label, id = "dos", "0x"+strings.Repeat("0", 8-len(strings.TrimPrefix(l.UUID, "0x")))+strings.TrimPrefix(l.UUID, "0x")
	}
	if got.Table.Label != label || got.Table.ID != id {
		t.Errorf("table is %s %s, want %s %s", got.Table.Label, got.Table.ID, label, id)
	}
	if len(got.Table.Partitions) != len(l.Partitions) {
		t.Fatalf("sfdisk finds %d partitions, want %d", len(got.Table.Partitions), len(l.Partitions))
	}
	for i, p := range got.Table.Partitions {
		want := l.Partitions[i]
		bootable := p.Bootable || p.Attrs == "LegacyBIOSBootable"
		if p.Start != want.Start || p.Size != want.Size || p.Type != want.Type || p.UUID != want.UUID || p.Name != want.Name || bootable != want.Bootable {
			t.Errorf("partition %d is %+v, want %+v", i+1, p, want)
		}
	}
}

func TestCHS(t *testing.T) {
	for sector, want := range map[int64][3]byte{
		0:               {0, 1, 0},
		2048:            {32, 33, 0},
		206847:          {223, 19, 12}, // where sfdisk ends 100 MiB from 1 MiB on
		1 << 31:         {254, 0xff, 0xff},
		1024*255*63 - 1: {254, 0xff, 0xff},
	} {
		h, s, c := chs(sector)
		if got := [3]byte{h, s, c}; got != want {
			t.Errorf("sector %d is at head, sector, cylinder %v, want %v", sector, got, want)
		}
	}
}

package stages

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
)

type sfdiskOptions struct {
	UUID       string            `json:"uuid"`
	Label      string            `json:"label"`
	Partitions []sfdiskPartition `json:"partitions"`
}

type sfdiskPartition struct {
	Number   int64  `json:"partnum"`
	Start    int64  `json:"start"`
	Size     int64  `json:"size"`
	Type     string `json:"type"`
	Name     string `json:"name"`
	UUID     string `json:"uuid"`
	Attrs    []int  `json:"attrs"`
	Bootable bool   `json:"bootable"`
}

// sfdisk writes a partition table to the device and sees that all of it is there.
func sfdisk(ctx context.Context, args *module.Args, options sfdiskOptions) error {
	device, err := devicePath(args, "device")
	if err != nil {
		return err
	}
	script := options.script(device)
	fmt.Println(script)
	cmd, err := deviceCommand(ctx, args, "org.osbuild.sfdisk", "sfdisk", "-q", "--no-tell-kernel", device)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(script)
	if err := run(cmd); err != nil {
		return err
	}
	made, err := countPartitions(ctx, args, device)
	if err == nil && made != len(options.Partitions) {
		err = fmt.Errorf("sfdisk made %d partitions of the %d in the manifest: names and types must not hold quotes or line ends", made, len(options.Partitions))
	}
	return err
}

// countPartitions reads the table back, and shows it in the stage's output.
func countPartitions(ctx context.Context, args *module.Args, device string) (int, error) {
	cmd, err := deviceCommand(ctx, args, "org.osbuild.sfdisk", "sfdisk", "--json", device)
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	if err := module.RunTool(cmd, &out); err != nil {
		return 0, err
	}
	os.Stdout.Write(out.Bytes())
	var table struct {
		PartitionTable struct {
			Partitions []json.RawMessage `json:"partitions"`
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out.Bytes(), &table); err != nil {
		return 0, fmt.Errorf("read the partition table back: %w", err)
	}
	return len(table.PartitionTable.Partitions), nil
}

// script is the table in sfdisk's own form, see sfdisk(8).
func (o *sfdiskOptions) script(device string) string {
	lines := []string{"label: " + o.Label, "label-id: " + o.UUID}
	for _, p := range o.Partitions {
		line := strings.Join(p.fields(), ", ")
		if p.Number != 0 {
			line = fmt.Sprintf("%sp%d: %s", device, p.Number, line)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// fields are what the manifest says of a partition; sfdisk finds the rest.
func (p *sfdiskPartition) fields() []string {
	var fields []string
	for _, number := range []struct {
		name  string
		value int64
	}{{"start", p.Start}, {"size", p.Size}} {
		if number.value != 0 {
			fields = append(fields, fmt.Sprintf(`%s="%d"`, number.name, number.value))
		}
	}
	for _, text := range [][2]string{{"type", p.Type}, {"name", p.Name}, {"uuid", p.UUID}} {
		if text[1] != "" {
			fields = append(fields, fmt.Sprintf(`%s="%s"`, text[0], text[1]))
		}
	}
	if len(p.Attrs) > 0 {
		fields = append(fields, fmt.Sprintf(`attrs="%s"`, strings.Join(gptAttributes(p.Attrs), ",")))
	}
	if p.Bootable {
		fields = append(fields, "bootable")
	}
	return fields
}

// gptAttributes are sfdisk's words for bits of a GPT entry. It has none for bits 3
// to 47, which the UEFI specification reserves.
func gptAttributes(bits []int) []string {
	names := []string{"RequiredPartition", "NoBlockIOProtocol", "LegacyBIOSBootable"}
	var out []string
	for _, bit := range bits {
		switch {
		case bit < len(names):
			out = append(out, names[bit])
		case bit >= 48:
			out = append(out, strconv.Itoa(bit))
		}
	}
	return out
}

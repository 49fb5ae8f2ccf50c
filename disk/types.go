package disk

import (
	"fmt"
	"strconv"
	"strings"
)

// Partition types that mean something to this package.
const (
	gptBIOSBoot = "21686148-6449-6E6F-744E-656564454649"
	gptESP      = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	gptLinux    = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	gptSwap     = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
	mbrESP      = 0xef
	mbrLinux    = 0x83
	mbrSwap     = 0x82
)

// alias is one of the names that sfdisk(8) accepts for a type; an empty gpt or
// a zero mbr means that this kind of table has no such type.
type alias struct {
	names []string
	gpt   string
	mbr   byte
}

var aliases = []alias{
	{[]string{"L", "linux"}, gptLinux, mbrLinux},
	{[]string{"S", "swap"}, gptSwap, mbrSwap},
	{[]string{"U", "uefi"}, gptESP, mbrESP},
	{[]string{"H", "home"}, "933AC7E1-2EB4-4F13-B844-0E14E2AEF915", 0},
	{[]string{"R", "raid"}, "A19D880F-05FC-4D3B-A006-743F0F84911E", 0xfd},
	{[]string{"V", "lvm"}, "E6D6D379-F507-44C2-A23C-238F2A3DF928", 0x8e},
}

// findAlias also gives a partition without a type the usual one of its
// filesystem.
func findAlias(p *Partition) (alias, bool) {
	name := p.Type
	if name == "" {
		name = "linux"
		if p.Filesystem != nil {
			switch p.Filesystem.Type {
			case "swap":
				name = "swap"
			case "vfat":
				name = "uefi"
			}
		}
	}
	for _, a := range aliases {
		if name == a.names[0] || name == a.names[1] {
			return a, true
		}
	}
	return alias{}, false
}

func mbrType(p *Partition) (byte, error) {
	if a, ok := findAlias(p); ok {
		if a.mbr == 0 {
			return 0, fmt.Errorf("type %q does not exist in an mbr", p.Type)
		}
		return a.mbr, nil
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(p.Type, "0x"), "0X")
	n, err := strconv.ParseUint(digits, 16, 8)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("type %q is not a hexadecimal byte, which an mbr takes, such as 83", p.Type)
	}
	switch n {
	case 0x05, 0x0f, 0x85:
		return 0, fmt.Errorf("type %q: extended partitions are not supported: use gpt for more than 4 partitions", p.Type)
	case 0xee:
		return 0, fmt.Errorf("type %q is reserved for disks with a gpt", p.Type)
	}
	return byte(n), nil
}

func gptType(p *Partition) (string, error) {
	if a, ok := findAlias(p); ok {
		return a.gpt, nil
	}
	id, err := parseUUID(p.Type)
	if err != nil {
		return "", fmt.Errorf("type %q is not a GUID, which a gpt takes, such as %s", p.Type, gptLinux)
	}
	return strings.ToUpper(id.String()), nil
}

// isESP tells whether firmware looks for boot loaders in a partition.
func (l *Layout) isESP(p *Partition) bool {
	if l.TableType == GPT {
		return p.Type == gptESP
	}
	return p.Type == fmt.Sprintf("%02x", mbrESP)
}

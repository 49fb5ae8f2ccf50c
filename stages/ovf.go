package stages

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ossify/ossify/module"
)

// ovfDocument is the descriptor that osbuild writes, with {{NAME}} for what changes.
// Package text/template would start the engine before the modules.
//
//go:embed ovf.xml
var ovfDocument string

type ovfOptions struct {
	VMDK   string `json:"vmdk"`
	VMware struct {
		OSType   *string `json:"os_type"`
		Hardware *string `json:"virtual_hardware_version"`
	} `json:"vmware"`
	VirtualBox struct {
		OSType     *string `json:"os_type"`
		MACAddress string  `json:"mac_address"`
	} `json:"virtualbox"`
}

// ovf describes a virtual machine around an image of the tree. What osbuild
// draws at random is derived from the stage's id, so that one manifest makes one
// descriptor.
func ovf(ctx context.Context, args *module.Args, options ovfOptions) error {
	if options.VMDK == "" {
		return errors.New(`options lack "vmdk"`)
	}
	image, err := treeTarget(args, options.VMDK)
	if err != nil {
		return err
	}
	info, err := os.Stat(image)
	if err != nil {
		return fmt.Errorf("describe %s: %w", options.VMDK, err)
	}
	capacity, err := virtualSize(ctx, args, "org.osbuild.ovf", image)
	if err != nil {
		return err
	}
	base := path.Base(options.VMDK)
	mac := options.VirtualBox.MACAddress
	if mac == "" {
		random := derivedUUID(args, "mac")
		mac = fmt.Sprintf("080027%x", random[:3]) // VirtualBox's own prefix
	}
	document := strings.NewReplacer(
		"{{image}}", escapeXML(base),
		"{{size}}", strconv.FormatInt(info.Size(), 10),
		"{{capacity}}", strconv.FormatInt(capacity, 10),
		"{{vmware_os_type}}", escapeXML(orDefault(options.VMware.OSType, "other26xLinux64Guest")),
		"{{vmware_hardware}}", escapeXML(orDefault(options.VMware.Hardware, "vmx-15")),
		"{{virtualbox_os_type}}", escapeXML(orDefault(options.VirtualBox.OSType, "OtherLinux_64")),
		"{{disk_uuid}}", derivedUUID(args, "disk").String(),
		"{{machine_uuid}}", derivedUUID(args, "machine").String(),
		"{{mac_address}}", mac,
	).Replace(ovfDocument)
	stem := path.Join(path.Dir(options.VMDK), withoutSuffix(base))
	if err := writeFile(args, stem+".ovf", document); err != nil {
		return fmt.Errorf("write %s.ovf: %w", stem, err)
	}
	sum, err := sumFile(args, options.VMDK)
	if err != nil {
		return fmt.Errorf("sum %s: %w", options.VMDK, err)
	}
	manifest := fmt.Sprintf("SHA256(%s)= %x\nSHA256(%s)= %s\n", path.Base(stem)+".ovf", sha256.Sum256([]byte(document)), base, sum)
	if err := writeFile(args, stem+".mf", manifest); err != nil {
		return fmt.Errorf("write %s.mf: %w", stem, err)
	}
	return nil
}

// virtualSize returns how many bytes the disk has whose image it is.
func virtualSize(ctx context.Context, args *module.Args, stage, image string) (int64, error) {
	cmd, err := hostCommand(ctx, args, stage, "qemu-img", "info", "--output=json", image)
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	if err := module.RunTool(cmd, &out); err != nil {
		return 0, fmt.Errorf("ask for the size of the disk: %w", err)
	}
	var info struct {
		VirtualSize int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		return 0, fmt.Errorf("read what qemu-img says of the disk: %w", err)
	}
	return info.VirtualSize, nil
}

func orDefault(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}

// escapeXML escapes text for an element or an attribute.
func escapeXML(text string) string {
	var out strings.Builder
	// Writing to memory does not fail.
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}

// withoutSuffix cuts the suffix off a name; dots at its beginning begin none.
func withoutSuffix(name string) string {
	visible := strings.TrimLeft(name, ".")
	return strings.TrimSuffix(name, filepath.Ext(visible))
}

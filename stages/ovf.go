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
	"strings"
	"text/template"

	"github.com/google/uuid"
	"github.com/ossify/ossify/module"
)

// ovfDocument is the descriptor that osbuild writes, as a template of ovfValues.
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

// ovfValues are escaped for XML.
type ovfValues struct {
	Image, VMwareOSType, VMwareHardware, VirtualBoxOSType, MACAddress string

	Size, Capacity        int64 // in bytes
	DiskUUID, MachineUUID uuid.UUID
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
	values := ovfValues{
		Image: escapeXML(base), Size: info.Size(), Capacity: capacity,
		VMwareOSType:     escapeXML(orDefault(options.VMware.OSType, "other26xLinux64Guest")),
		VMwareHardware:   escapeXML(orDefault(options.VMware.Hardware, "vmx-15")),
		VirtualBoxOSType: escapeXML(orDefault(options.VirtualBox.OSType, "OtherLinux_64")),
		DiskUUID:         derivedUUID(args, "disk"), MachineUUID: derivedUUID(args, "machine"),
		MACAddress: options.VirtualBox.MACAddress,
	}
	if values.MACAddress == "" {
		mac := derivedUUID(args, "mac")
		values.MACAddress = fmt.Sprintf("080027%x", mac[:3]) // VirtualBox's own prefix
	}
	document, err := template.New("ovf.xml").Parse(ovfDocument)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	var out bytes.Buffer
	if err := document.Execute(&out, values); err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	stem := path.Join(path.Dir(options.VMDK), withoutSuffix(base))
	if err := writeFile(args, stem+".ovf", out.String()); err != nil {
		return fmt.Errorf("write %s.ovf: %w", stem, err)
	}
	sum, err := sumFile(args, options.VMDK)
	if err != nil {
		return fmt.Errorf("sum %s: %w", options.VMDK, err)
	}
	manifest := fmt.Sprintf("SHA256(%s)= %x\nSHA256(%s)= %s\n", path.Base(stem)+".ovf", sha256.Sum256(out.Bytes()), base, sum)
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

package stages

import (
	"context"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

type qemuOptions struct {
	Filename string     `json:"filename"`
	Format   qemuFormat `json:"format"`
}

type qemuFormat struct {
	Type        string `json:"type"`
	Compression *bool  `json:"compression"`
	Compat      string `json:"compat"`
	AdapterType string `json:"adapter_type"`
	Compat6     bool   `json:"compat6"`
	Subformat   string `json:"subformat"`
	ForceSize   *bool  `json:"force_size"`
}

// qemu converts the only file of the input "image" to another format of disk
// images. What it is qemu-img finds out.
func qemu(ctx context.Context, args *module.Args, options qemuOptions) error {
	source, err := onlyFile(args, "image")
	if err != nil {
		return err
	}
	target, err := treeTarget(args, options.Filename)
	if err != nil {
		return err
	}
	argv := append([]string{"convert", "-O", options.Format.Type}, options.Format.arguments()...)
	// A runner sets it where several of them would hang.
	if coroutines := os.Getenv("OSBUILD_QEMU_IMG_COROUTINES"); coroutines != "" {
		argv = append(argv, "-m", coroutines)
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.qemu", "qemu-img", append(argv, source, target)...)
	if err != nil {
		return err
	}
	return run(cmd)
}

// arguments are what qemu-img is told of the format.
func (f *qemuFormat) arguments() []string {
	var argv, opts []string
	switch f.Type {
	case "qcow2":
		if f.Compat != "" {
			opts = append(opts, "compat="+f.Compat)
		}
	case "vmdk":
		if f.AdapterType != "" {
			opts = append(opts, "adapter_type="+f.AdapterType)
		}
		if f.Compat6 {
			opts = append(opts, "compat6")
		}
		if f.Subformat != "" {
			opts = append(opts, "subformat="+f.Subformat)
		}
	case "vpc":
		subformat := f.Subformat
		if subformat == "" {
			subformat = "fixed"
		}
		opts = append(opts, "subformat="+subformat)
		if f.ForceSize == nil || *f.ForceSize {
			opts = append(opts, "force_size")
		}
	}
	if f.compresses() {
		argv = append(argv, "-c")
	}
	if len(opts) > 0 {
		argv = append(argv, "-o", strings.Join(opts, ","))
	}
	return argv
}

// compresses says whether blocks are compressed: in formats that can, unless that
// is turned off.
func (f *qemuFormat) compresses() bool {
	return (f.Type == "qcow2" || f.Type == "vmdk") && (f.Compression == nil || *f.Compression)
}

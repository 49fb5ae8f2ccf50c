package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

type vagrantOptions struct {
	Provider   string `json:"provider"`
	VirtualBox struct {
		MACAddress string `json:"mac_address"`
	} `json:"virtualbox"`
	SyncedFolders ordered[struct {
		Type *string `json:"type"`
	}] `json:"synced_folders"`
}

// vagrant makes a Vagrant box around the only file of the input "image".
func vagrant(ctx context.Context, args *module.Args, options vagrantOptions) error {
	if options.Provider == "" {
		return errors.New(`options lack "provider"`)
	}
	source, err := onlyFile(args, "image")
	if err != nil {
		return err
	}
	// VirtualBox goes by the suffix, libvirt's provider wants box.img.
	box := "/box.img"
	if options.Provider == "virtualbox" {
		box = "/box.vmdk"
	}
	target, err := treeTarget(args, box)
	if err != nil {
		return err
	}
	cmd, err := hostCommand(ctx, args, "org.osbuild.vagrant", "cp", "-a", "--reflink=auto", source, target)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return fmt.Errorf("copy the image: %w", err)
	}

	metadata := pyjson.NewObject("provider", options.Provider)
	var settings strings.Builder
	switch options.Provider {
	case "libvirt":
		size, err := virtualSize(ctx, args, "org.osbuild.vagrant", target)
		if err != nil {
			return err
		}
		metadata.Set("format", "qcow2")
		metadata.Set("virtual_size", size/1_000_000_000)
		settings.WriteString("config.vm.provider :libvirt do |libvirt|\n  libvirt.driver = \"kvm\"\nend\n")
	case "virtualbox":
		fmt.Fprintf(&settings, "config.vm.base_mac = \"%s\"\n", options.VirtualBox.MACAddress)
	}
	for _, folder := range options.SyncedFolders {
		if folder.value.Type == nil {
			return fmt.Errorf(`synced folder %s lacks "type"`, folder.name)
		}
		fmt.Fprintf(&settings, "    config.vm.synced_folder \".\", \"%s\", type: \"%s\"\n", folder.name, *folder.value.Type)
	}
	vagrantfile := "Vagrant.configure(\"2\") do |config|\n    " + settings.String() + "\nend\n"
	if err := writeFile(args, "/Vagrantfile", vagrantfile); err != nil {
		return fmt.Errorf("write Vagrantfile: %w", err)
	}
	if err := writeFile(args, "/metadata.json", string(pyjson.Dumps(metadata, false))); err != nil {
		return fmt.Errorf("write metadata.json: %w", err)
	}
	return nil
}

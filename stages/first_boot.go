package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

type firstBootOptions struct {
	Commands       []string `json:"commands"`
	WaitForNetwork bool     `json:"wait_for_network"`
}

// firstBootUnit is the service, byte for byte as osbuild writes it, without its
// commands.
const firstBootUnit = `[Unit]
Description=OSBuild First Boot Service
ConditionPathExists=/etc/osbuild-first-boot
%s

[Service]
Type=oneshot

`

// firstBoot enables a service that runs commands once: it is started while
// /etc/osbuild-first-boot is there, and its first command removes that.
func firstBoot(_ context.Context, args *module.Args, options firstBootOptions) error {
	if options.Commands == nil {
		return errors.New(`options lack "commands"`)
	}
	network := ""
	if options.WaitForNetwork {
		network = "Wants=network-online.target\nAfter=network-online.target"
	}
	var unit strings.Builder
	fmt.Fprintf(&unit, firstBootUnit, network)
	for _, command := range append([]string{"/usr/bin/rm /etc/osbuild-first-boot"}, options.Commands...) {
		fmt.Fprintf(&unit, "ExecStart=%s\n", command)
	}
	const dir, name = "/usr/lib/systemd/system", "osbuild-first-boot.service"
	if err := makeDirs(args, dir+"/default.target.wants"); err != nil {
		return fmt.Errorf("write service: %w", err)
	}
	if err := writeFile(args, dir+"/"+name, unit.String()); err != nil {
		return fmt.Errorf("write service: %w", err)
	}
	link, err := treeEntry(args, dir+"/default.target.wants/"+name)
	if err != nil {
		return err
	}
	if err := os.Symlink("../"+name, link); err != nil {
		return fmt.Errorf("enable service: %w", err)
	}
	if err := touchFlag(args); err != nil {
		return fmt.Errorf("mark the first boot: %w", err)
	}
	return nil
}

// touchFlag makes the file that says that there was no boot yet. One that is
// there stays as it is.
func touchFlag(args *module.Args) error {
	if err := makeDirs(args, "/etc"); err != nil {
		return err
	}
	path, err := treeTarget(args, "/etc/osbuild-first-boot")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

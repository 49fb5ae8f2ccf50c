package main

import (
	"fmt"
	"os"
	"time"

	"github.com/ossify/ossify/boot"
	"github.com/spf13/cobra"
)

func bootCommand() *cobra.Command {
	var o boot.Options
	cmd := &cobra.Command{
		Use:   "boot IMAGE",
		Short: "Boot an image in QEMU, changes thrown away",
		Long:  "Boots a disk image in QEMU with the serial console on the terminal. Nothing is written to the image.\nWith --check it waits for the login prompt and ends.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("one image is needed, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Image = args[0]
			o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
			return boot.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Accel, "accel", "auto", "auto, kvm or tcg; auto takes KVM if it works")
	f.StringVar(&o.Firmware, "firmware", "bios", "bios or uefi")
	f.IntVar(&o.Memory, "memory", 1024, "memory of the machine in MiB")
	f.IntVar(&o.CPUs, "cpus", 2, "processors of the machine")
	f.BoolVar(&o.Check, "check", false, "wait for the login prompt, print the time it took, and end")
	f.IntVar(&o.SSHPort, "ssh-port", 0, "port of 127.0.0.1 that leads to the machine's port 22, 0 for none")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long --check waits")
	return cmd
}

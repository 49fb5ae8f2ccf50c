package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/ossify/ossify/sandbox"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func unshareCommand() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "unshare [COMMAND [ARG...]]",
		Short: "Run a command in the user namespace that owns the store's files",
		Long:  "Runs a command, or your shell, as root of the user namespace in which Ossify builds.\nFiles of subordinate ids can be read and removed there, and checkpoints mounted (ossify store mount).",
		RunE: func(_ *cobra.Command, args []string) error {
			if err := sandbox.EnterNamespace(); err != nil {
				return err
			}
			if err := o.leaveLock(); err != nil {
				return err
			}
			if len(args) == 0 {
				shell := os.Getenv("SHELL")
				if shell == "" {
					shell = "/bin/sh"
				}
				args = []string{shell}
			}
			path, err := exec.LookPath(args[0])
			if err != nil && !errors.Is(err, exec.ErrDot) {
				return fmt.Errorf("%s: command not found", args[0])
			}
			return fmt.Errorf("start %s: %w", path, unix.Exec(path, args, os.Environ()))
		},
	}
	o.addStore(cmd)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

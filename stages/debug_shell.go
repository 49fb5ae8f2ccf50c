package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ossify/ossify/module"
)

type debugShellOptions struct {
	TTY *string `json:"tty"`
}

// debugShellUnit is the service, byte for byte as osbuild writes it, with @TTY@
// for the terminal.
const debugShellUnit = `
[Unit]
Description=Early root shell on @TTY@ FOR DEBUGGING ONLY
DefaultDependencies=no
IgnoreOnIsolate=yes
ConditionPathExists=@TTY@

[Service]
Environment=TERM=linux
ExecStart=/bin/sh
Restart=always
RestartSec=0
StandardInput=tty
TTYPath=@TTY@
TTYReset=yes
TTYVHangup=yes
KillMode=process
IgnoreSIGPIPE=no
# bash ignores SIGTERM
KillSignal=SIGHUP

# Unset locale for the console getty since the console has problems
# displaying some internationalized messages.
UnsetEnvironment=LANG LANGUAGE LC_CTYPE LC_NUMERIC LC_TIME LC_COLLATE LC_MONETARY LC_MESSAGES LC_PAPER LC_NAME LC_ADDRESS LC_TELEPHONE LC_MEASUREMENT LC_IDENTIFICATION
`

// debugShell enables a service that gives whoever sits at a terminal a shell of
// root, early in the boot.
func debugShell(_ context.Context, args *module.Args, options debugShellOptions) error {
	if options.TTY == nil {
		return errors.New(`options lack "tty"`)
	}
	const dir, name = "/etc/systemd/system", "osbuild-debug-shell.service"
	if err := writeFile(args, dir+"/"+name, strings.ReplaceAll(debugShellUnit, "@TTY@", *options.TTY)); err != nil {
		return fmt.Errorf("write service: %w", err)
	}
	link, err := treeEntry(args, dir+"/sysinit.target.wants/"+name)
	if err != nil {
		return err
	}
	if err := os.Symlink("../"+name, link); err != nil {
		return fmt.Errorf("enable service: %w", err)
	}
	return nil
}

package stages

import (
	"context"
	"fmt"

	"github.com/ossify/ossify/module"
)

// systemdSysusers makes the users and groups that the tree's sysusers.d has.
func systemdSysusers(ctx context.Context, args *module.Args, _ struct{}) error {
	cmd, err := hostCommand(ctx, args, "org.osbuild.systemd-sysusers", "systemd-sysusers", "--root", args.Tree)
	if err != nil {
		return err
	}
	if err := run(cmd); err != nil {
		return err
	}
	fmt.Println("users and groups of sysusers.d are there")
	return nil
}

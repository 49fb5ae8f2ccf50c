package assemblers

import (
	"context"
	"fmt"

	"github.com/ossify/ossify/module"
)

// noop makes nothing of the tree.
func noop(_ context.Context, args *module.Args, _ struct{}) error {
	fmt.Printf("doing nothing with options %s\n", args.Options)
	return nil
}

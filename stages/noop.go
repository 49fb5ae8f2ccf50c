package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

// noop changes nothing; it makes chains and measures their cost.
func noop(context.Context, *module.Args, any) error { return nil }

package stages

import (
	"context"

	"github.com/ossify/ossify/module"
)

// noop changes nothing; it makes chains and measures their cost.
func noop(context.Context, *module.Args, struct{}) error { return nil }

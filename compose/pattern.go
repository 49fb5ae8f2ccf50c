package compose

import (
	"regexp"
	"sync"
)

// pattern compiles an expression when it is first used: this program starts for
// every stage, and most starts compose nothing.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

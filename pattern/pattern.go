// Package pattern has regular expressions that cost nothing until they are used:
// this program starts twice for every stage, and Go compiles the expressions of
// all packages at every start.
package pattern

import (
	"regexp"
	"sync"
)

// New returns a function for the compiled expression. A faulty one panics at its
// first use.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

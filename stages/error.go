package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ossify/ossify/module"
)

// exitStatus is an error that asks for an exit status of the stage's process.
type exitStatus struct {
	code int
	text string
}

// Error says what happened.
func (e *exitStatus) Error() string { return e.text }

// ExitCode returns the status to exit with, 1 to 255.
func (e *exitStatus) ExitCode() int { return e.code }

type errorOptions struct {
	ReturnCode *json.Number `json:"returncode"`
}

// fail ends with the wanted status; it is for tests of how failures are shown.
func fail(_ context.Context, _ *module.Args, options errorOptions) error {
	code := 255
	if options.ReturnCode != nil {
		code = processStatus(options.ReturnCode.String())
	}
	if code == 0 {
		return nil
	}
	return &exitStatus{code: code, text: fmt.Sprintf("stage fails as it was asked to, with status %d", code)}
}

// processStatus returns what a Python process with sys.exit(number) leaves: the
// low 8 bits of an integer, 255 for one beyond a C long, 1 for a fraction.
func processStatus(number string) int {
	code, err := strconv.ParseInt(number, 10, 64)
	if err == nil {
		return int(code & 0xff)
	}
	if e, ok := err.(*strconv.NumError); ok && e.Err == strconv.ErrRange {
		return 255
	}
	return 1
}

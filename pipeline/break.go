package pipeline

import (
	"fmt"

	"github.com/ossify/ossify/sandbox"
)

// BreakEverywhere as Break.At means every stage.
const BreakEverywhere = "*"

// Break opens a shell in the sandbox of stages just before they run. A stage
// with a shell runs whether it has a checkpoint or not, one stage at a time, and
// as nobody knows what was done in the shell, nothing that comes after it
// becomes a checkpoint.
type Break struct {
	// At is the name or id of stages, or BreakEverywhere.
	At string
	// Terminal is where the shell is.
	Terminal sandbox.Terminal
}

// at says whether there is a shell before that stage; no Break has none.
func (b *Break) at(s *Stage) bool {
	return b != nil && (b.At == BreakEverywhere || b.At == s.Name || b.At == s.ID)
}

// firstBreak is the index of the first of the stages with a shell, or their
// number.
func (b *Break) firstBreak(stages []*Stage) int {
	for i, s := range stages {
		if b.at(s) {
			return i
		}
	}
	return len(stages)
}

// checkBreak refuses a Break that would never happen.
func (b *builder) checkBreak() error {
	if b.Break == nil {
		return nil
	}
	for _, r := range b.runs {
		if b.Break.firstBreak(r.pipeline.Stages) < len(r.pipeline.Stages) {
			return nil
		}
	}
	for _, p := range b.manifest.Pipelines {
		if b.Break.firstBreak(p.Stages) < len(p.Stages) {
			return fmt.Errorf("--break %s: that stage is in pipeline %q, which does not have to run for this build; ask for it with --checkpoint %s", b.Break.At, p.Name, p.Name)
		}
	}
	return fmt.Errorf("--break %s: no stage of %s has that name or id", b.Break.At, b.manifest.Name)
}

// announce says where the shell is.
func (b *Break) announce(s *Stage) {
	fmt.Fprintf(b.Terminal.Err, `
A shell in the sandbox of stage %d (%s) of pipeline %q, before it runs.
  /run/osbuild/tree             the tree
  /run/osbuild/api/arguments    the stage's arguments
  /run/osbuild/bin/%s    the stage
Leave it with "exit" to go on; any exit status but 0 ends the build. Nothing
that is built from here on becomes a checkpoint.

`, s.Index, s.Name, s.Pipeline.Name, s.Name)
}

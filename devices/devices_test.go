package devices

import (
	"testing"

	"github.com/ossify/ossify/test/schema"
)

// TestSchemas tries the schema of every device. What they do takes root of the
// machine: test/root has it.
func TestSchemas(t *testing.T) { schema.Check(t, All, Schemas) }

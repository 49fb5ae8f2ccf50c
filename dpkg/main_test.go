package dpkg

import (
	"testing"

	"github.com/ossify/ossify/test/namespace"
)

func TestMain(m *testing.M) { namespace.Main(m, func() error { return nil }) }

package stages

import (
	"encoding/json"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// pythonLines is a file's text as Python reads it: every line end is "\n".
func pythonLines(data []byte) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
}

// pythonNumber spells a number of the options as Python does.
func pythonNumber(n json.Number) string {
	return string(pyjson.Dumps(n, false))
}

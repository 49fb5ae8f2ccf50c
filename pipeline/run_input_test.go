package pipeline

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestInputPath: the path that an input returns is in its target.
func TestInputPath(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	for _, dir := range []string{"dir/sub", "..data"} {
		if err := os.MkdirAll(filepath.Join(target, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"good": "dir/sub", "out": "/etc", "up": "../..", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	for reply, want := range map[string]string{
		target: ".", target + "/": ".", target + "/dir//sub/": "dir/sub", target + "/dir/../dir": "dir", target + "/..data": "..data",
		target + "/good": "good", target + "/good/..": ".",
		"": "", "/": "", "/etc": "", "relative": "", target + "/..": "", target + "/../target2": "", target + "x": "",
		target + "/missing": "", target + "/out/passwd": "", target + "/loop": "", target + "/dir\x00": "",
	} {
		raw, err := json.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		got, err := inputPath(raw, target)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", reply, got, err, want)
		}
	}
	for _, raw := range []string{"", "7", "null", "{}", `["a"]`} {
		if got, err := inputPath(json.RawMessage(raw), target); err == nil {
			t.Errorf("%s: got %q", raw, got)
		}
	}
}

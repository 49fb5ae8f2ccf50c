package pyjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ossify/ossify/pyjson"
)

// TestDumps compares with what Python's json.dumps(json.loads(in)) printed.
func TestDumps(t *testing.T) {
	for _, c := range []struct{ in, plain, sorted string }{
		{`{"b":1,"a":[1,2,{}]}`, `{"b": 1, "a": [1, 2, {}]}`, `{"a": [1, 2, {}], "b": 1}`},
		{`{"a":1,"b":2,"a":3}`, `{"a": 3, "b": 2}`, `{"a": 3, "b": 2}`},
		{`[1.0,1.50,1e16,1e15,123456789012345680.0,0.0001,0.00001,1E5,-0.0,-0]`,
			`[1.0, 1.5, 1e+16, 1000000000000000.0, 1.2345678901234568e+17, 0.0001, 1e-05, 100000.0, -0.0, 0]`, ``},
		{`[1e400,-1e400,1e22,1.7976931348623157e308,5e-324]`, `[Infinity, -Infinity, 1e+22, 1.7976931348623157e+308, 5e-324]`, ``},
		{`[123456789012345678901234567890]`, `[123456789012345678901234567890]`, ``},
		{`"ü€😀\u0001\u007f\n\"\\/<>&"`, `"\u00fc\u20ac\ud83d\ude00\u0001\u007f\n\"\\/<>&"`, ``},
		{`[null,true,false,""]`, `[null, true, false, ""]`, ``},
		{`{"\ud83d\ude00":1,"\uffee":2,"z":3}`, `{"\ud83d\ude00": 1, "\uffee": 2, "z": 3}`, `{"z": 3, "\uffee": 2, "\ud83d\ude00": 1}`},
	} {
		v, err := pyjson.Decode([]byte(c.in), nil)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := string(pyjson.Dumps(v, false)); got != c.plain {
			t.Errorf("%s:\ngot  %s\nwant %s", c.in, got, c.plain)
		}
		if c.sorted != "" {
			if got := string(pyjson.Dumps(v, true)); got != c.sorted {
				t.Errorf("%s, sorted:\ngot  %s\nwant %s", c.in, got, c.sorted)
			}
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, c := range []struct {
		in           string
		line, column int
	}{
		{"{\n \"a\": }", 2, 7},
		{"", 1, 1},
		{"{\"a\": 1", 1, 8},
		{"{} x", 1, 4},
		{"[1,\n2,,3]", 2, 3},
		{"{\"a\" 1}", 1, 6},
		{"\xff", 1, 1},
		{strings.Repeat("[", 5000), 1, 502},
	} {
		_, err := pyjson.Decode([]byte(c.in), nil)
		var syntax *pyjson.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.20q: %v", c.in, err)
			continue
		}
		if syntax.Line != c.line || c.column != 502 && syntax.Column != c.column {
			t.Errorf("%.20q: line %d, column %d, want %d, %d: %s", c.in, syntax.Line, syntax.Column, c.line, c.column, syntax.Reason)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5,"x",null,{"b":true}]}`, `[1e400]`, `"\ud800"`, `{"a":1,"a":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := pyjson.Decode(data, map[string]int{})
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted %q", data)
		}
		out := pyjson.Dumps(v, true)
		again, err := pyjson.Decode(out, nil)
		if err != nil {
			if strings.Contains(string(out), "Infinity") {
				return // Python writes it too, and it is not JSON
			}
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		if twice := pyjson.Dumps(again, true); string(twice) != string(out) {
			t.Fatalf("%q became %q, then %q", data, out, twice)
		}
	})
}

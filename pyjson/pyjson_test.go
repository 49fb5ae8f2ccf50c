package pyjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

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
		{strings.Repeat("[", 100000), 1, 1002},
		{"[" + strings.Repeat("1", 4301) + "]", 1, 2},
		{"[NaN]", 1, 2},
		{"[-Infinity]", 1, 2},
	} {
		_, err := pyjson.Decode([]byte(c.in), nil)
		var syntax *pyjson.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.20q: %v", c.in, err)
			continue
		}
		if syntax.Line != c.line || syntax.Column != c.column {
			t.Errorf("%.20q: line %d, column %d, want %d, %d: %s", c.in, syntax.Line, syntax.Column, c.line, c.column, syntax.Reason)
		}
	}
}

// TestLimits sees that what Python reads is read.
func TestLimits(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("[", 989) + strings.Repeat("]", 989),
		strings.Repeat(`{"a":`, 989) + "1" + strings.Repeat("}", 989),
		"-" + strings.Repeat("1", 4300),
		strings.Repeat("1", 5000) + ".5",
		"0." + strings.Repeat("1", 5000),
	} {
		if _, err := pyjson.Decode([]byte(text), nil); err != nil {
			t.Errorf("%.20s: %v", text, err)
		}
	}
}

// python does what osbuild does with each line.
const python = `
import json, sys
for line in sys.stdin.buffer:
    v = json.loads(line)
    print(json.dumps(v))
    print(json.dumps(v, sort_keys=True))
`

// TestPython compares with Python itself: values of all kinds, in all spellings.
func TestPython(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	var texts []string
	for range 20000 {
		texts = append(texts, randomValue(random, 4))
	}
	cmd := exec.Command("python3", "-c", python)
	cmd.Stdin = strings.NewReader(strings.Join(texts, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(want) != 2*len(texts) {
		t.Fatalf("Python printed %d lines for %d values", len(want), len(texts))
	}
	for i, text := range texts {
		v, err := pyjson.Decode([]byte(text), nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for j, got := range []string{string(pyjson.Dumps(v, false)), string(pyjson.Dumps(v, true))} {
			if got != want[2*i+j] {
				t.Errorf("%s:\ngot  %s\nwant %s", text, got, want[2*i+j])
			}
		}
	}
}

// randomValue is a JSON text with values nested at most depth deep.
func randomValue(random *rand.Rand, depth int) string {
	kinds := 8
	if depth == 0 {
		kinds = 6
	}
	space := strings.Repeat(" ", random.Intn(2))
	var parts []string
	switch random.Intn(kinds) {
	case 0:
		return []string{"null", "true", "false", "[]", "{}", "0", "-0", "-0.0", "1e400", "-1e400", "1E-400"}[random.Intn(11)]
	case 1:
		return randomDigits(random, 40)
	case 2: // any double, in its shortest form or with more digits
		f := math.Float64frombits(random.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			f = 0.1
		}
		return strconv.FormatFloat(f, 'e', []int{-1, 3, 16, 17, 30}[random.Intn(5)], 64)
	case 3:
		number := randomDigits(random, 20)
		if random.Intn(4) > 0 {
			number += "." + strings.TrimPrefix(randomDigits(random, 20), "-")
		}
		if random.Intn(2) == 0 {
			number += []string{"e", "E", "e+", "e-", "E-"}[random.Intn(5)] + strconv.Itoa(random.Intn(330))
		}
		return number
	case 4, 5:
		return randomString(random)
	case 6:
		for range random.Intn(5) {
			parts = append(parts, space+randomValue(random, depth-1)+space)
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	for range random.Intn(6) {
		parts = append(parts, randomString(random)+space+":"+space+randomValue(random, depth-1))
	}
	return "{" + strings.Join(parts, ","+space) + "}"
}

func randomDigits(random *rand.Rand, most int) string {
	digits := []string{"", "-"}[random.Intn(2)] + strconv.Itoa(1+random.Intn(9))
	for range random.Intn(most) {
		digits += strconv.Itoa(random.Intn(10))
	}
	return digits
}

// randomString is short, so that keys repeat, and has every kind of character
// as it is, or escaped.
func randomString(random *rand.Rand) string {
	text := `"`
	for range random.Intn(4) {
		switch random.Intn(6) {
		case 0:
			text += `\` + string(`"\/bfnrt`[random.Intn(8)])
		case 1:
			text += fmt.Sprintf(`\u%04x`, random.Intn(0x10000))
		case 2:
			text += fmt.Sprintf(`\u%04X`, 0xd800+random.Intn(0x800))
		case 3:
			text += fmt.Sprintf(`\u%04x\u%04x`, 0xd800+random.Intn(0x400), 0xdc00+random.Intn(0x400))
		case 4:
			r := rune(random.Intn(0x110000))
			if r < ' ' || r == '"' || r == '\\' || utf16.IsSurrogate(r) {
				r = 'a'
			}
			text += string(r)
		case 5:
			text += string([]rune("abAB~\u007f<>&'\u2028é")[random.Intn(12)])
		}
	}
	return text + `"`
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

package pyyaml

import (
	"testing"

	"github.com/ossify/ossify/pyjson"
)

// The outcomes are those of PyYAML 6.0.
func TestDump(t *testing.T) {
	for _, test := range []struct{ name, json, want string }{
		{
			"nested",
			"{\"b\": {\"d\": [], \"c\": {}}, \"a\": [1, [2, [3]], {\"x\": \"y\", \"w\": [true]}], \"c\": null}",
			"a:\n" +
				"- 1\n" +
				"- - 2\n" +
				"  - - 3\n" +
				"- w:\n" +
				"  - true\n" +
				"  x: y\n" +
				"b:\n" +
				"  c: {}\n" +
				"  d: []\n" +
				"c: null\n",
		},
		{
			"numbers",
			"{\"l\": [1, -0, 1.50, 1e3, 1e17, 1e-7, 1e999, -1e999, 123456789012345678901234567890]}",
			"l:\n" +
				"- 1\n" +
				"- 0\n" +
				"- 1.5\n" +
				"- 1000.0\n" +
				"- 1.0e+17\n" +
				"- 1.0e-07\n" +
				"- .inf\n" +
				"- -.inf\n" +
				"- 123456789012345678901234567890\n",
		},
		{
			"texts of other types",
			"{\"l\": [\"yes\", \"NO\", \"~\", \"\", \"=\", \"<<\", \"0o17\", \"017\", \"08\", \"0x1f\", \"1e3\", \"1.5e+3\", \"1:30\", \"1_000\", \"2026-01-01\", \"2026-1-1 10:00:00\", \".inf\", \"y\"]}",
			"l:\n" +
				"- 'yes'\n" +
				"- 'NO'\n" +
				"- '~'\n" +
				"- ''\n" +
				"- '='\n" +
				"- '<<'\n" +
				"- 0o17\n" +
				"- '017'\n" +
				"- 08\n" +
				"- '0x1f'\n" +
				"- 1e3\n" +
				"- '1.5e+3'\n" +
				"- '1:30'\n" +
				"- '1_000'\n" +
				"- '2026-01-01'\n" +
				"- '2026-1-1 10:00:00'\n" +
				"- '.inf'\n" +
				"- y\n",
		},
		{
			"indicators",
			"{\"l\": [\"- a\", \"-a\", \"?\", \"?a\", \"a: b\", \"a:b\", \"a:\", \"a #b\", \"a#b\", \"[x\", \"x]\", \"x,y\", \"&a\", \"*a\", \"!t\", \"|\", \">\", \"%d\", \"@x\", \"`x\", \"it's\", \"'q'\", \"\\\"q\\\"\", \"---\", \"...\", \" a\", \"a \"]}",
			"l:\n" +
				"- '- a'\n" +
				"- -a\n" +
				"- '?'\n" +
				"- ?a\n" +
				"- 'a: b'\n" +
				"- a:b\n" +
				"- 'a:'\n" +
				"- 'a #b'\n" +
				"- a#b\n" +
				"- '[x'\n" +
				"- x]\n" +
				"- x,y\n" +
				"- '&a'\n" +
				"- '*a'\n" +
				"- '!t'\n" +
				"- '|'\n" +
				"- '>'\n" +
				"- '%d'\n" +
				"- '@x'\n" +
				"- '`x'\n" +
				"- it's\n" +
				"- '''q'''\n" +
				"- '\"q\"'\n" +
				"- '---'\n" +
				"- '...'\n" +
				"- ' a'\n" +
				"- 'a '\n",
		},
		{
			"line ends",
			"{\"a\": \"#cloud-config\\na:\\n- b\\n\", \"b\": \"\\n\", \"c\": \"x\\n\\ny\", \"d\": \"a\\n  b\\n\", \"k\\nl\": [1]}",
			"a: '#cloud-config\n" +
				"\n" +
				"  a:\n" +
				"\n" +
				"  - b\n" +
				"\n" +
				"  '\n" +
				"b: '\n" +
				"\n" +
				"  '\n" +
				"c: 'x\n" +
				"\n" +
				"\n" +
				"  y'\n" +
				"d: \"a\\n" +
				"  b\\n" +
				"\"\n" +
				"? 'k\n" +
				"\n" +
				"  l'\n" +
				": - 1\n",
		},
		{
			"escapes",
			"{\"l\": [\"\\u0000\\u0007\\b\\t\\u000b\\f\\r\\u001b\\\"\\\\\", \"é\\u0085\\u00a0\\u2028\\u2029\\ufeff\\ud83d\\ude00\\u007f\"]}",
			"l:\n" +
				"- \"\\0\\a\\b\\t\\v\\f\\r\\e\\\"\\\\\"\n" +
				"- \"\\xE9\\N\\_\\L\\P\\uFEFF\\U0001F600\\x7F\"\n",
		},
		{
			"long plain text",
			"{\"key\": \"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word end\"}",
			"key: word word word word word word word word word word word word word word word word\n" +
				"  word word word word word word word word word word word word word word end\n",
		},
		{
			"long text in single quotes",
			"{\"key\": \"# it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word it's  a word \"}",
			"key: '# it''s  a word it''s  a word it''s  a word it''s  a word it''s  a word it''s  a\n" +
				"  word it''s  a word it''s  a word it''s  a word it''s  a word it''s  a word it''s  a\n" +
				"  word '\n",
		},
		{
			"long text in double quotes",
			"{\"key\": \"ü word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  word é  \"}",
			"key: \"\\xFC word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word\\\n" +
				"  \\ \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9\\\n" +
				"  \\  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9  word \\xE9 \\\n" +
				"  \\ word \\xE9  word \\xE9  word \\xE9  \"\n",
		},
		{
			"long key",
			"{\"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\": 1, \"jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj\": 2, \"\": [3]}",
			"? ''\n" +
				": - 3\n" +
				"jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj: 2\n" +
				"? kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\n" +
				": 1\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			value, err := pyjson.Decode([]byte(test.json), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := Dump(value.(*pyjson.Object)); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestFlow(t *testing.T) {
	sources := Flow{"Azure", "None", "a,b", "no"}
	for range 9 {
		sources = append(sources, "NoCloud")
	}
	const want = "a:\n  l: [Azure, None, 'a,b', 'no', NoCloud, NoCloud, NoCloud, NoCloud, NoCloud, NoCloud,\n" +
		"    NoCloud, NoCloud, NoCloud]\nb:\n- []\n"
	got := Dump(pyjson.NewObject("a", pyjson.NewObject("l", sources), "b", []any{Flow{}}))
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

package ini

import "testing"

// The outcomes are those of iniparse 0.5.
func TestFile(t *testing.T) {
	for _, test := range []struct{ name, text, section, option, value, want string }{
		{"new", "", "a", "x", "1", "[a]\nx = 1"},
		{"section at the end", "[a]\nx=1\n", "b", "x", "2", "[a]\nx=1\n\n\n[b]\nx = 2"},
		{"section after a last line without end", "# only", "b", "x", "2", "# only\n\n[b]\nx = 2"},
		{"added before comments", "[a]\nx=1\n\n# about b\n[b]\n", "a", "y", "2", "[a]\nx=1\ny = 2\n\n# about b\n[b]\n"},
		{"added to an empty section", "[a]\n# c\n[b]\nx=1", "a", "Y", "2", "[a]\nY = 2\n# c\n[b]\nx=1"},
		{"added after a value of several lines", "[a]\nx=1\n  2\n# c\n", "a", "y", "3", "[a]\nx=1\n  2\ny = 3\n# c\n"},
		{"added to the second part of a section", "[a]\nx=1\n[b]\n[a]\nz=1\n", "a", "y", "2", "[a]\nx=1\n[b]\n[a]\nz=1\ny = 2\n"},
		{"changed", "[a] ; c\nX :  1  \n", "a", "x", "2", "[a] ; c\nX :  2\n"},
		{"the last one changes", "[a]\nx=1\nx=2\n[b]\nx=3\n[a]\nx=4\nX=5\n", "a", "x", "6", "[a]\nx=1\nx=2\n[b]\nx=3\n[a]\nx=4\nX=6\n"},
		{"comment keeps its column", "[a]\nx = 1000 ; c\n", "a", "x", "2", "[a]\nx = 2    ; c\n"},
		{"comment gives way", "[a]\nx = 1 ; c\n", "a", "x", "2000", "[a]\nx = 2000 ; c\n"},
		{"semicolon in a value", "[a]\nx = 1;c\n", "a", "x", "2", "[a]\nx = 2\n"},
		{"several lines are replaced", "[a]\nx = 1\n\n# c\n   2\ny=3\n", "a", "x", "4\n5\n\n6", "[a]\nx = 4\n   5\n\n   6\ny=3\n"},
		{"several lines are added", "[a]\n", "a", "x", "1\n2", "[a]\nx = 1\n        2\n"},
		{"rem", "[a]\nremote=1\n", "a", "remote", "2", "[a]\nremote = 2\nremote=1\n"},
		{"byte order mark", "\ufeff[a]\nx=1", "a", "x", "2", "\ufeff[a]\nx=2"},
		{"reference", "[a]\n", "a", "x", "%(y)s", "[a]\nx = %(y)s\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := Parse(test.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.String(); got != test.text {
				t.Errorf("unchanged it is %q, want %q", got, test.text)
			}
			f.AddSection(test.section)
			if err := f.Set(test.section, test.option, test.value); err != nil {
				t.Fatal(err)
			}
			if got := f.String(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"x=1\n[a]\n":      `line 1, "x=1", comes before the first section`,
		"# c\n\n x\n[a]":  `line 3, " x", comes before the first section`,
		"[a]\nx=1\njunk":  `line 3, "junk", is no section, option or comment`,
		"[a]\n  # c\nx=1": `line 2, "  # c", is no section, option or comment`,
		"[a]\n[]\n":       `line 2, "[]", is no section, option or comment`,
		"[a]\n=1\n":       `line 2, "=1", is no section, option or comment`,
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	f, err := Parse("[a]\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"50%", "%%", "%()s", "%(a)d"} {
		if err := f.Set("a", "x", value); err == nil {
			t.Errorf("value %q is taken", value)
		}
	}
	if err := f.Set("b", "x", "1"); err == nil {
		t.Error("an option is set in a section that is not there")
	}
	if got := f.String(); got != "[a]\n" {
		t.Errorf("errors changed the file to %q", got)
	}
}

func TestConfig(t *testing.T) {
	var c Config
	for _, o := range [][3]string{{"b", "z", "1"}, {"a", "x", "100%% %(z)s"}, {"b", "Y", "1\n2"}, {"b", "z", ""}} {
		if err := c.Section(o[0]).Set(o[1], o[2]); err != nil {
			t.Fatal(err)
		}
	}
	if !c.Has("a") || c.Has("c") {
		t.Error("a is there and c is not")
	}
	const want = "[b]\nz=\nY=1\n\t2\n\n[a]\nx=100%% %(z)s\n\n"
	if got := c.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, value := range []string{"50%", "%%%", "%()s"} {
		if err := c.Section("a").Set("x", value); err == nil {
			t.Errorf("value %q is taken", value)
		}
	}
}

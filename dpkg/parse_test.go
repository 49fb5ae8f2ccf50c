package dpkg

import (
	"bytes"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0}, {"1.0", "1.1", -1}, {"1.10", "1.9", 1}, {"1.0-1", "1.0", 1}, {"1.0-0", "1.0", 0},
		{"1:0.1", "9", 1}, {"0:1", "1", 0}, {"1.0~rc1", "1.0", -1}, {"1.0~~", "1.0~", -1}, {"1.0a", "1.0+", -1},
		{"1.0.a", "1.0a", 1}, {"007", "7", 0}, {"1-2-3", "1-2-4", -1}, {"2.36-9+deb12u14", "2.36-9+deb12u9", 1}, {"", "0", 0},
		{"1.0+b1", "1.0", 1}, {"99999999999999999999999", "100000000000000000000000", -1},
	}
	for _, test := range tests {
		if got := CompareVersions(test.a, test.b); got != test.want {
			t.Errorf("%q, %q: %d, want %d", test.a, test.b, got, test.want)
		}
		if got := CompareVersions(test.b, test.a); got != -test.want {
			t.Errorf("%q, %q: %d, want %d", test.b, test.a, got, -test.want)
		}
	}
}

func TestParseRelations(t *testing.T) {
	got, err := ParseRelations("a, b (>= 1:2~) | c:any (<< 3),\n d(=1) , e ( > 4 )")
	if err != nil {
		t.Fatal(err)
	}
	want := []Alternatives{
		{{Name: "a"}}, {{Name: "b", Op: ">=", Version: "1:2~"}, {Name: "c", Arch: "any", Op: "<<", Version: "3"}},
		{{Name: "d", Op: "=", Version: "1"}}, {{Name: "e", Op: ">=", Version: "4"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{"a b", "a (>= )", "a (~ 1)", "a | ", "(>= 1)", "a [amd64]"} {
		if got, err := ParseRelations(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestParseParagraphs(t *testing.T) {
	got, err := ParseParagraphs([]byte("\nA: 1\nLong: x \n y\n .\n# note\nEmpty:\n\n\nA: 2"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Paragraph{{{"A", "1"}, {"Long", "x \n y\n ."}, {"Empty", ""}}, {{"A", "2"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range []string{" x", "no colon", "A: 1\na: 2", ": x", "A B: c"} {
		if got, err := ParseParagraphs([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// parsed makes a package of a control file, for sets that are not installed.
func parsed(t testing.TB, d testDeb) *Package {
	t.Helper()
	data := d.build(t)
	p, err := read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSetCheck(t *testing.T) {
	base := "Package: dpkg\nEssential: yes"
	tests := []struct {
		name     string
		controls []string
		want     []string // of the error; none: no error
	}{
		{"complete", []string{base, "Package: x\nDepends: y | dpkg (>= 1), v", "Package: y\nProvides: v"}, nil},
		{"versioned provision", []string{base, "Package: x\nPre-Depends: v (>= 2)", "Package: y\nProvides: v (= 2)"}, nil},
		{"provision without version", []string{base, "Package: x\nDepends: v (>= 2)", "Package: y\nProvides: v"}, []string{"x depends on v (>= 2)"}},
		{"own provision", []string{base, "Package: x\nProvides: v\nConflicts: v\nReplaces: v"}, nil},
		{"conflict", []string{base, "Package: x\nConflicts: y (<< 2)", "Package: y"}, []string{"x conflicts with y (<< 2)"}},
		{"broken", []string{base, "Package: x\nBreaks: v", "Package: y\nProvides: v"}, []string{"x conflicts with v, which y 1.0 is"}},
		{"twice", []string{base, "Package: x", "Package: x\nVersion: 3"}, []string{"x is given twice (versions 1.0 and 3)"}},
		{"no dpkg", []string{"Package: x"}, []string{"dpkg is missing"}},
		{"all at once", []string{base, "Package: x\nDepends: a, b"}, []string{"depends on a", "depends on b"}},
	}
	for _, test := range tests {
		var set Set
		for _, control := range test.controls {
			set = append(set, parsed(t, testDeb{control: control}))
		}
		err := set.Check()
		if (err != nil) != (len(test.want) > 0) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
		for _, want := range test.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q does not say %q", test.name, err, want)
			}
		}
	}
}

func TestPlan(t *testing.T) {
	var set Set
	for _, d := range []testDeb{
		{control: "Package: app\nDepends: lib, cycle"},
		{control: "Package: cycle\nDepends: app"},
		{control: "Package: dpkg\nEssential: yes\nPre-Depends: libc"},
		{control: "Package: image", members: map[string]string{"md5sums": "0cc175b9c0f1b6a831c399e269772661  boot/vmlinuz-6\n"}},
		{control: "Package: late\nPre-Depends: image-latest"},
		{control: "Package: image-latest\nDepends: image"},
		{control: "Package: lib\nDepends: libc"},
		{control: "Package: libc\nDepends: libgcc"},
		{control: "Package: libgcc\nDepends: libc"},
	} {
		set = append(set, parsed(t, d))
	}
	names := func(packages []*Package) string {
		var all []string
		for _, p := range packages {
			all = append(all, p.Name)
		}
		return strings.Join(all, " ")
	}
	o := set.plan()
	for _, test := range []struct{ what, got, want string }{
		{"base", names(o.base), "libgcc libc dpkg"},
		{"rest", names(o.rest), "lib cycle app"},
		{"kernels", names(o.kernels), "image image-latest late"},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", test.what, test.got, test.want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	good := testDeb{control: "Package: x", suffix: ".xz"}.build(t)
	cut := func(from, to string) []byte { return bytes.Replace(slices.Clone(good), []byte(from), []byte(to), 1) }
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":       {nil, "no ar archive"},
		"not ar":      {[]byte(strings.Repeat("x", 100)), "no ar archive"},
		"cut off":     {good[:len(good)-100], "cut off"},
		"format":      {cut("2.0\n", "3.0\n"), "format is not 2"},
		"no data":     {cut("data.tar.xz", "beta.tar.xz"), "not its members"},
		"compression": {cut("control.tar.xz  ", "control.tar.lz4 "), `compression "lz4" is not known`},
		"corrupt":     {cut("\xfd7zXZ\x00\x00\x04", "\xfd7zXZ\x00\x00\x05"), "corrupt"},
		"bad name":    {testDeb{control: "Package: ../x"}.build(t), "no usable field Package"},
		"dot name":    {testDeb{control: "Package: .."}.build(t), "which is not one"},
		"no name":     {testDeb{control: "Source: x"}.build(t), "no usable field Package"},
		"bad depends": {testDeb{control: "Package: x\nDepends: a b"}.build(t), "package x, field Depends"},
	} {
		_, err := read(bytes.NewReader(test.data), int64(len(test.data)))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestOutput(t *testing.T) {
	o := &output{}
	for _, s := range []string{"Setting up old (1) ...\nold\nSetting up new (2) ...\nfirst", " line\ndpkg: error processing package new:amd64 (--configure):\n", "last"} {
		if _, err := o.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	want := "package new:amd64: file does not exist; last output:\n  Setting up new (2) ...\n  first line\n  dpkg: error processing package new:amd64 (--configure):\n  last"
	if got := o.explain(os.ErrNotExist).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzRead(f *testing.F) {
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(testDeb{control: "Package: x\nDepends: y (>= 1)", suffix: suffix, members: map[string]string{"conffiles": "/etc/x\n"}}.build(f))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := read(bytes.NewReader(data), int64(len(data)))
		if err == nil && (p.Name == "" || p.Version == "" || p.Control.Get("Package") != p.Name) {
			t.Errorf("accepted a package without name or version: %+v", p)
		}
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1:2.0~rc1-3", "1:2.0-3", "0")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if CompareVersions(a, b) != -CompareVersions(b, a) {
			t.Errorf("%q and %q: the order depends on who asks", a, b)
		}
		if CompareVersions(a, b) <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
			t.Errorf("%q, %q, %q are not in an order", a, b, c)
		}
	})
}

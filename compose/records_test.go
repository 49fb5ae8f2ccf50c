package compose

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const sum = "45457bcfc86c87585800b5656bdf2773b063a3bb95486b0e820d51e870491f8d"

func TestParseURIs(t *testing.T) {
	line := func(uri, file, rest string) string { return "'" + uri + "' " + file + " " + rest + "\n" }
	good := "https://mirror.invalid/pool/a_1%3a2_all.deb"
	for _, c := range []struct {
		name, text string
		want       []pinned
		err        string
	}{
		{"two", "Reading package lists...\n" + line(good, "a_1%3a2_all.deb", "12 SHA256:"+sum) + line("file:/x/b_2_amd64.deb", "b_2_amd64.deb", "3 SHA256:"+sum), []pinned{
			{name: "a", version: "1:2", url: good, size: 12, checksum: "sha256:" + sum},
			{name: "b", version: "2", url: "file:///x/b_2_amd64.deb", size: 3, checksum: "sha256:" + sum}}, ""},
		{"no checksum", line(good, "a_1_all.deb", "12 "), nil, "no sha256 for a_1_all.deb"},
		{"weak checksum", line(good, "a_1_all.deb", "12 MD5Sum:0123"), nil, "no sha256"},
		{"no size", line(good, "a_1_all.deb", "0 SHA256:"+sum), nil, "the size 0"},
		{"huge size", line(good, "a_1_all.deb", "99999999999999999999 SHA256:"+sum), nil, "the size 99999999999999999999"},
		{"odd name", line(good, "a.deb", "1 SHA256:"+sum), nil, "not named as a package"},
		{"no package", line(good, "a_1_all.tar", "1 SHA256:"+sum), nil, "not named as a package"},
		{"odd scheme", line("cdrom:[x]/a_1_all.deb", "a_1_all.deb", "1 SHA256:"+sum), nil, "want http, https or file"},
		{"odd line", "'http://x\n", nil, "not understood"},
	} {
		got, err := parseURIs(c.text)
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.err)
		}
	}
}

func TestReadRecords(t *testing.T) {
	for _, c := range []struct {
		text string
		want []record
		err  string
	}{
		{"A: 1\nB:2\n\n\nC: x\n y\n\tz\n# comment\nD:\n", []record{{"a": "1", "b": "2"}, {"c": "x\ny\nz", "d": ""}}, ""},
		{"", nil, ""},
		{" x\n", nil, "follows nothing"},
		{"x\n", nil, "no field name"},
		{": x\n", nil, "no field name"},
	} {
		var got []record
		err := readRecords(strings.NewReader(c.text), func(r record) bool {
			got = append(got, r)
			return true
		})
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%q: got %v, %v", c.text, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.err)
		}
	}
}

func TestReleaseDate(t *testing.T) {
	const begin = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
	const end = "\n-----BEGIN PGP SIGNATURE-----\n\nDate: Sat, 02 Mar 2030 10:20:30 UTC\n"
	for _, c := range []struct {
		text string
		want int64
		err  string
	}{
		{"Origin: x\nDate: Sat, 02 Mar 2024 10:20:30 UTC\n", 1709374830, ""},
		{"Date: Sat, 2 Mar 2024 10:20:30 UTC\n", 1709374830, ""},
		{"Date: Sat, 02 Mar 2024 11:20:30 +0100\n", 1709374830, ""},
		{begin + "Origin: x\nDate: Sat, 02 Mar 2024 10:20:30 UTC" + end, 1709374830, ""},
		{begin + "Origin: x" + end, 0, "no Date"},
		{"Origin: x\n", 0, "no Date"},
		{"Date: yesterday\n", 0, "not understood"},
	} {
		got, err := releaseDate(c.text)
		if c.err == "" && (err != nil || got.Unix() != c.want) {
			t.Errorf("%q: got %v, %v", c.text, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.err)
		}
	}
}

func TestParseSites(t *testing.T) {
	list := filepath.Join(t.TempDir(), "mirrors")
	if err := os.WriteFile(list, []byte("# mine\nhttps://m.invalid/debian\tpriority:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	suites := distros[0].suites()
	main := []string{"main"}
	for _, c := range []struct {
		name, text string
		want       []site
		err        string
	}{
		{"all", "http://s/sec|bookworm-security|bookworm-security|main\nhttp://m/debian/|bookworm|bookworm|main\nhttp://m/debian/|bookworm|bookworm|contrib\nhttp://m/debian/|bookworm|bookworm|main\nhttp://m/debian|trixie|trixie|main\n",
			[]site{{url: "http://m/debian", suite: "bookworm", components: []string{"main", "contrib"}}, {url: "http://s/sec", suite: "bookworm-security", components: main}}, ""},
		{"by its other name", "http://m|oldstable|bookworm|main\n", []site{{url: "http://m", suite: "bookworm", components: main}}, ""},
		{"mirror list", "mirror+file:" + list + "|bookworm|$(CODENAME)|main", []site{{url: "https://m.invalid/debian", suite: "bookworm", components: main}}, ""},
		{"only security", "http://m|bookworm-security|bookworm-security|main\n", nil, ""},
		{"another release", "http://m|trixie|trixie|main\n", nil, ""},
		{"cdrom", "cdrom:[x]|bookworm|bookworm|main\n", nil, "want http, https or file"},
		{"no mirror list", "mirror+file:/nonexistent|bookworm|bookworm|main\n", nil, "/nonexistent"},
	} {
		got, err := parseSites(c.text, suites)
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.err)
		}
	}
}

func TestNearest(t *testing.T) {
	all := []string{"nginx", "nginx-light", "nano", "apache2", "openssh-server", "openssh-client"}
	for name, want := range map[string][]string{
		"ngnix": {"nginx"}, "nginx": nil, "apache": {"apache2"}, "zzz": nil, "": nil,
		"openssh-sever": {"openssh-server"},
	} {
		if got := nearest(name, all, 3); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func FuzzParseURIs(f *testing.F) {
	f.Add("'http://x/a_1_all.deb' a_1_all.deb 1 SHA256:" + sum)
	f.Add("'file:/x/a_1%3a_all.deb' a_1%3a_all.deb 0 MD5Sum:1\nnoise")
	f.Fuzz(func(t *testing.T, text string) {
		packages, err := parseURIs(text)
		if err != nil {
			return
		}
		for _, p := range packages {
			if p.size <= 0 || len(p.checksum) != 71 || p.url == "" {
				t.Errorf("not pinned: %+v", p)
			}
		}
	})
}

func FuzzReadRecords(f *testing.F) {
	f.Add("A: 1\n b\n\nC: 2\n")
	f.Add("-----BEGIN PGP SIGNED MESSAGE-----\n\nDate: Sat, 02 Mar 2024 10:20:30 UTC\n-----BEGIN PGP SIGNATURE-----")
	f.Fuzz(func(t *testing.T, text string) {
		err := readRecords(strings.NewReader(text), func(r record) bool {
			if len(r) == 0 {
				t.Error("empty record")
			}
			return true
		})
		if err != nil && !strings.HasPrefix(err.Error(), "deb822: ") {
			t.Error(err)
		}
		if date, err := releaseDate(text); err == nil && date.IsZero() {
			t.Error("no date and no error")
		}
	})
}

// An accepted blueprint makes a manifest, whatever is in it.
func FuzzBlueprint(f *testing.F) {
	for _, path := range []string{"testdata/full.toml", "../samples/debian-minimal.toml"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		bp, err := ParseBlueprint("b", []byte(text))
		if err != nil {
			return
		}
		c := composer{bp: bp, distro: distros[0], image: imageTypes[0], opts: Options{BuildRoot: "tree"}, epoch: 1,
			os: []pinned{{name: "linux-image-6.1.0-10-amd64", checksum: "sha256:" + sum, size: 1}}}
		m, err := c.manifest()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := encode(m); err != nil {
			t.Error(err)
		}
	})
}

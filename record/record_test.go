package record

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestEncode(t *testing.T) {
	r := Record{"/b": {Label: "system_u:object_r:etc_t:s0"}, "/": {Flags: Immutable}, "/a<b": {Label: "x", Flags: Append}, "/none": {}, "/dev/null": {Label: "x", Device: Device{Kind: 'c', Major: 1, Minor: 3, Mode: 0o666, GID: 5}}, "/\xffz": {Label: "x", Flags: Append | Immutable}}
	want := `"/" flags=i
"/a<b" selinux="x" flags=a
"/b" selinux="system_u:object_r:etc_t:s0"
"/dev/null" selinux="x" device=c:1:3:0666:0:5
"/\xffz" selinux="x" flags=ai
`
	var out bytes.Buffer
	if err := r.Encode(&out); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Fatalf("got:\n%swant:\n%s", out.String(), want)
	}
	back, err := Decode(&out)
	if err != nil {
		t.Fatal(err)
	}
	delete(r, "/none")
	if !reflect.DeepEqual(r, back) {
		t.Errorf("read back: %v", back)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`"a" flags=i`:                 `"a" is no absolute clean path`,
		`"/a/../b" flags=i`:           "clean path",
		`"/a/" flags=i`:               "clean path",
		`"/a\x00" flags=i`:            "clean path",
		`/a flags=i`:                  "does not begin with a quoted path",
		`"/a"`:                        "nothing or something unknown",
		`"/a" flags=`:                 "nothing or something unknown",
		`"/a" flags=ix`:               `unknown inode flag 'x'`,
		`"/a" selinux=x`:              "no SELinux context",
		`"/a" selinux=""`:             "no SELinux context",
		`"/a" selinux="x\ny"`:         "no SELinux context",
		`"/a" device=x:1:3:0666:0:5`:  "no device",
		`"/a" device=c:1:3:66:0:5`:    "no device",
		`"/a" device=c:1:3:0666:0`:    "no device",
		`"/a" device=c:1:3:17777:0:0`: "no device",
		`"/a" device=c:-1:3:0777:0:0`: "no device",
		`"/a" selinux="x" mode=7`:     "something unknown",
		"\"/a\" flags=i\n\"/b":        "line 2",
		`"/a" flags=i selinux="x"`:    `unknown inode flag ' '`,
	} {
		if _, err := Decode(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestBelow(t *testing.T) {
	r := Record{"/": {Label: "r"}, "/boot": {Label: "b"}, "/boot/x": {Label: "x"}, "/bootstrap": {Label: "s"}}
	if got, want := r.Below("/boot"), (Record{"/": {Label: "b"}, "/x": {Label: "x"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("below /boot: %v", got)
	}
	if got := r.Below("/"); !reflect.DeepEqual(got, r) {
		t.Errorf("below /: %v", got)
	}
}

func TestSet(t *testing.T) {
	r := Record{}
	r.SetFlags("/a", Immutable, Immutable|Append)
	r.SetLabel("/a", "l")
	r.SetFlags("/a", 0, Immutable)
	if got := r["/a"]; got != (Entry{Label: "l"}) {
		t.Errorf("got %v", got)
	}
	r.SetLabel("/a", "")
	if len(r) != 0 {
		t.Errorf("left: %v", r)
	}
}

// FuzzDecode: what is accepted is written and read back equal.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\"/a\" selinux=\"x\" flags=ai\n"))
	f.Add([]byte("\"/\\xff\" flags=i"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := r.Encode(&out); err != nil {
			t.Fatal(err)
		}
		back, err := Decode(bytes.NewReader(out.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		var again bytes.Buffer
		if err := back.Encode(&again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Fatalf("%q and %q", out.Bytes(), again.Bytes())
		}
	})
}

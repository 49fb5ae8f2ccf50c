// Package bls changes and reads boot loader entries: the text of the files
// loader/entries/*.conf that the Boot Loader Specification describes, a line
// each with a key and its value. It takes and returns text; where entries lie
// and how they are written is the caller's concern.
package bls

import (
	"strings"
	"unicode/utf8"
)

// Entry is what is needed to start a kernel. Of a key that is there several
// times the last value counts.
type Entry struct {
	// Version is the kernel's version.
	Version string
	// Linux and Initrd are paths on the filesystem of the entries.
	Linux, Initrd string
	// Options are the kernel's command line.
	Options string
}

// Parse reads an entry. Empty lines, comments and unknown keys are passed over.
func Parse(text string) Entry {
	var e Entry
	fields := map[string]*string{"version": &e.Version, "linux": &e.Linux, "initrd": &e.Initrd, "options": &e.Options}
	for _, line := range lines(text) {
		line = strings.TrimSpace(line)
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			continue
		}
		if field := fields[line[:end]]; field != nil {
			*field = strings.TrimSpace(line[end:])
		}
	}
	return e
}

// AppendOptions adds words to the first line of options, or a line of options
// to an entry that has none. Every line of the result ends in "\n".
func AppendOptions(text string, words []string) string {
	added := strings.Join(words, " ")
	var out strings.Builder
	found := false
	for _, line := range lines(text) {
		line = line[:len(line)-lineEnd(line)]
		if !found && strings.HasPrefix(line, "options ") {
			line += " " + added
			found = true
		}
		out.WriteString(line + "\n")
	}
	if !found {
		out.WriteString("options " + added + "\n")
	}
	return out.String()
}

// ReplaceBoot replaces in each line all from its first slash to the end of its
// last "/boot" by prefix. With nested set, lines are left alone in which that
// is "/boot" itself.
func ReplaceBoot(text, prefix string, nested bool) string {
	var out strings.Builder
	for _, line := range lines(text) {
		start, last := strings.IndexByte(line, '/'), strings.LastIndex(line, "/boot")
		if last > start || last >= 0 && !nested {
			line = line[:start] + prefix + line[last+len("/boot"):]
		}
		out.WriteString(line)
	}
	return out.String()
}

// lines splits text after what Unicode and Python take for the end of a line.
// Carriage returns become "\n", alone or with one.
func lines(text string) []string {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	var out []string
	start := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		if isLineEnd(r) {
			out, start = append(out, text[start:i]), i
		}
	}
	if start < len(text) {
		out = append(out, text[start:])
	}
	return out
}

func isLineEnd(r rune) bool {
	return r >= '\n' && r <= '\f' || r >= 0x1c && r <= 0x1e || r == 0x85 || r == 0x2028 || r == 0x2029
}

// lineEnd is the number of bytes of the character that ends the line, or 0.
func lineEnd(line string) int {
	r, size := utf8.DecodeLastRuneInString(line)
	if !isLineEnd(r) {
		return 0
	}
	return size
}

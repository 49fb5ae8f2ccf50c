package monitor

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ossify/ossify/ansi"
)

// Bytes writes a size in bytes for people, in powers of 1024.
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// Seconds writes a duration for people.
func Seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return elapsed(d)
}

// elapsed is Seconds for times that still run: fewer digits, less unrest.
func elapsed(d time.Duration) string {
	whole := int(d.Seconds())
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", whole/60, whole%60)
	}
	return fmt.Sprintf("%dh%02dm%02ds", whole/3600, whole/60%60, whole%60)
}

// plainLines are the lines of a text that is not trusted.
func plainLines(text string) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = ansi.Line([]byte(line))
	}
	return lines
}

// cut shortens a text to at most n characters, the last of which is mark if
// something is missing.
func cut(text string, n int, mark string) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	if n < utf8.RuneCountInString(mark) {
		return ""
	}
	return string([]rune(text)[:n-utf8.RuneCountInString(mark)]) + mark
}

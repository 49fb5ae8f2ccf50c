package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ossify/ossify/monitor"
)

// sizeFlag is a size in bytes as osbuild's --cache-max-size has it
// (osbuild/util/parsing.py, parse_size); 0 is no limit.
type sizeFlag struct {
	bytes int64
	text  string
}

// units of sizes; the letters' case counts, as in osbuild.
var units = map[string]int64{
	"": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// Set reads the size.
func (f *sizeFlag) Set(text string) error {
	if text == "unlimited" {
		*f = sizeFlag{}
		return nil
	}
	s := strings.TrimLeft(text, " \t")
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	factor, ok := units[strings.TrimLeft(s[digits:], " \t")]
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if !ok || err != nil || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is no size: want a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB, or unlimited", text)
	}
	*f = sizeFlag{bytes: n * factor, text: text}
	return nil
}

// String is the size as it was given.
func (f *sizeFlag) String() string { return f.text }

// Type is what the help calls the value.
func (f *sizeFlag) Type() string { return "size" }

// shrink cuts the store down to the size that was asked for.
func (e *engine) shrink(o *storeOptions) error {
	if o.maxSize.text == "" {
		return nil
	}
	left, err := e.store.Shrink(o.maxSize.bytes)
	if err != nil {
		return fmt.Errorf("--cache-max-size: %w", err)
	}
	if left.Busy {
		e.monitor.Log("the store is used by another build, so nothing was removed from it")
	} else if left.Removed > 0 {
		e.monitor.Log(fmt.Sprintf("removed %d checkpoints and downloads, %s, from the store", left.Removed, monitor.Bytes(left.Freed)))
	}
	return nil
}

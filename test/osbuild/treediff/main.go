// Command treediff compares two trees, each as a tar archive, path by path.
//
//	treediff [-again AGAIN.tar] [-except PATH]... WANT.tar GOT.tar
//
// It prints a line for every difference in types, contents, modes, owners,
// extended attributes, ACLs, links, device numbers and times, and exits with 1 if
// there is one. AGAIN is a second build of WANT: times that differ between the two
// are not compared. An archive in the tree is compared by what is in it, as the
// order in which tar and zip store a folder is the filesystem's: its paths are
// "/archive.tar!/path". PATH is known to differ; it is an error if it does not.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	again := flag.String("again", "", "a second build of WANT; times in which they differ are not compared")
	excepted := map[string]bool{}
	flag.Func("except", "a path that is known to differ (can be given several times)", func(path string) error {
		excepted[path] = false
		return nil
	})
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: treediff [-again AGAIN.tar] [-except PATH]... WANT.tar GOT.tar")
		os.Exit(2)
	}
	lines, err := run(flag.Arg(0), flag.Arg(1), *again, excepted)
	if err != nil {
		fmt.Fprintln(os.Stderr, "treediff:", err)
		os.Exit(2)
	}
	for _, line := range lines {
		fmt.Println(line)
	}
	if len(lines) > 0 {
		os.Exit(1)
	}
}

// run compares the archives and returns a line for each difference. It notes in
// excepted which of those paths differ.
func run(wantFile, gotFile, againFile string, excepted map[string]bool) ([]string, error) {
	want, err := readFile(wantFile)
	if err != nil {
		return nil, err
	}
	got, err := readFile(gotFile)
	if err != nil {
		return nil, err
	}
	var lines []string
	if againFile != "" {
		again, err := readFile(againFile)
		if err != nil {
			return nil, err
		}
		loosenTimes(want, again)
		for _, d := range diff("", want, again) {
			if _, ok := excepted[d.path]; !ok {
				lines = append(lines, "two builds of "+wantFile+" differ: "+d.String())
			}
		}
	}
	for _, d := range diff("", want, got) {
		if _, ok := excepted[d.path]; ok {
			excepted[d.path] = true
			continue
		}
		lines = append(lines, d.String())
	}
	for _, path := range sorted(excepted) {
		if !excepted[path] {
			lines = append(lines, fmt.Sprintf("%q is excepted but does not differ", path))
		}
	}
	return lines, nil
}

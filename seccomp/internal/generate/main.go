// Command generate writes the tables of package seccomp.
package main

import (
	"fmt"
	"os"

	"github.com/ossify/ossify/seccomp/internal/profile"
)

func main() {
	for _, goarch := range []string{"amd64", "arm64"} {
		source, err := profile.Generate(goarch)
		if err == nil {
			err = os.WriteFile("tables_"+goarch+".go", source, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "generate: %v\n", err)
			os.Exit(1)
		}
	}
}

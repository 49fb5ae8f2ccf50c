// Command registry serves a registry for benchmarks: registry ADDRESS DIRECTORY.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/ossify/ossify/test/registry"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: registry ADDRESS DIRECTORY")
	}
	h, err := registry.Handler(os.Args[2], "", "")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], h))
}

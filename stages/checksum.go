package stages

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/ossify/ossify/module"
)

// sumFile returns the SHA-256 of a file of the tree, in hexadecimal digits.
func sumFile(args *module.Args, path string) (string, error) {
	target, err := treeTarget(args, path)
	if err != nil {
		return "", err
	}
	file, err := os.Open(target)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}

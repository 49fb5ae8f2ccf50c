package stages

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ossify/ossify/module"
	"github.com/ossify/ossify/pyjson"
)

type dmverityOptions struct {
	Blocksize    json.Number `json:"blocksize"`
	RootHashFile string      `json:"root_hash_file"`
}

// dmverity writes the hash tree of one device to another and the root hash to a
// file of the tree. What veritysetup draws at random is derived from the stage's
// id, so that one manifest makes one hash.
func dmverity(ctx context.Context, args *module.Args, options dmverityOptions) error {
	if options.RootHashFile == "" {
		return errors.New(`options lack "root_hash_file"`)
	}
	data, err := devicePath(args, "data_device")
	if err != nil {
		return err
	}
	hashes, err := devicePath(args, "hash_device")
	if err != nil {
		return err
	}
	rootHash, err := treeTarget(args, options.RootHashFile)
	if err != nil {
		return err
	}
	blocksize := "512"
	if options.Blocksize != "" {
		blocksize = string(pyjson.Dumps(options.Blocksize, false))
	}
	first, second := derivedUUID(args, "salt 1"), derivedUUID(args, "salt 2")
	salt := hex.EncodeToString(append(first[:], second[:]...))
	for _, argv := range [][]string{
		{"format", data, hashes, "--data-block-size", blocksize, "--root-hash-file", rootHash,
			"--salt", salt, "--uuid", derivedUUID(args, "hash device").String()},
		{"verify", data, hashes, "--root-hash-file", rootHash},
	} {
		cmd, err := hostCommand(ctx, args, "org.osbuild.dmverity", "veritysetup", argv...)
		if err != nil {
			return err
		}
		if err := run(cmd); err != nil {
			return fmt.Errorf("%s the hash tree: %w", argv[0], err)
		}
	}
	return nil
}

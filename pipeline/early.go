package pipeline

import (
	"errors"
	"fmt"

	"github.com/ossify/ossify/pyjson"
)

// Extend1 puts into a manifest of format 1 what osbuild's first releases took
// from files of their own: the sources, which replace those of the manifest, and
// the build pipeline with its runner on which the innermost build stands. Either
// may be nil.
func Extend1(manifest, sources, buildEnv []byte) ([]byte, error) {
	root, err := decodeObject(manifest)
	if err != nil {
		return nil, err
	}
	if root.Get("version") != nil && root.Get("version") != "1" {
		return nil, errors.New("--sources and --build-env are for manifests of format 1")
	}
	root = wrapPipeline(root)
	if sources != nil {
		replacement, err := decodeObject(sources)
		if err != nil {
			return nil, fmt.Errorf("--sources: %w", err)
		}
		root.Set("sources", replacement)
	}
	if buildEnv != nil {
		env, err := decodeObject(buildEnv)
		if err != nil {
			return nil, fmt.Errorf("--build-env: %w", err)
		}
		innermost := obj(root, "pipeline")
		root.Set("pipeline", innermost)
		for {
			build, ok := innermost.Get("build").(*pyjson.Object)
			if !ok || len(build.Keys) == 0 {
				break
			}
			next, ok := build.Get("pipeline").(*pyjson.Object)
			if !ok {
				return nil, errors.New("--build-env: the innermost build of the manifest has a runner, but no pipeline that could stand on another")
			}
			innermost = next
		}
		innermost.Set("build", env)
	}
	return pyjson.Dumps(root, false), nil
}

// wrapPipeline makes a manifest of a bare pipeline, which osbuild's first
// releases took for one.
func wrapPipeline(root *pyjson.Object) *pyjson.Object {
	for _, key := range root.Keys {
		switch key {
		case "stages", "build", "assembler":
		default:
			return root
		}
	}
	if len(root.Keys) == 0 {
		return root
	}
	return pyjson.NewObject("pipeline", root)
}

func decodeObject(data []byte) (*pyjson.Object, error) {
	doc, err := pyjson.Decode(data, nil)
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	root, ok := doc.(*pyjson.Object)
	if !ok {
		return nil, errors.New("must be a JSON object")
	}
	return root, nil
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/ossify/ossify/sandbox"
	"golang.org/x/sys/unix"
)

// enter enters the namespace for building the manifest. Only root has a choice.
func (o *buildOptions) enter(path string) error {
	if !realRoot() || o.inspect {
		return sandbox.EnterNamespace()
	}
	data, err := o.peek(path)
	if err != nil {
		return err
	}
	if o.mayNeedDevices(data) {
		return sandbox.EnterForDevices()
	}
	return sandbox.EnterNamespace()
}

// peek reads the manifest and leaves standard input as it was.
func (o *buildOptions) peek(path string) ([]byte, error) {
	if path != "-" {
		_, data, err := readManifest(path)
		return data, err
	}
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	fd, err := unix.MemfdCreate("manifest", 0)
	if err != nil {
		return nil, fmt.Errorf("keep the manifest: %w", err)
	}
	kept := os.NewFile(uintptr(fd), "manifest")
	defer kept.Close()
	if _, err = kept.Write(data); err == nil {
		_, err = kept.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = unix.Dup3(fd, 0, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the manifest: %w", err)
	}
	return data, nil
}

// mayNeedDevices says whether a stage of the manifest asks for devices or mounts,
// or is one of osbuild's assemblers that make loop devices. What is wrong with
// the manifest is told later.
func (o *buildOptions) mayNeedDevices(manifest []byte) bool {
	var m struct {
		Pipelines []struct {
			Stages []struct {
				Devices map[string]json.RawMessage `json:"devices"`
				Mounts  []json.RawMessage          `json:"mounts"`
			} `json:"stages"`
		} `json:"pipelines"`
	}
	_ = json.Unmarshal(manifest, &m)
	for _, p := range m.Pipelines {
		for _, s := range p.Stages {
			if len(s.Devices) > 0 || len(s.Mounts) > 0 {
				return true
			}
		}
	}
	if len(o.libdirs) == 0 && len(o.defaultLibdirs) == 0 {
		return false // Ossify's own assemblers do without
	}
	return bytes.Contains(manifest, []byte(`"org.osbuild.qemu"`)) || bytes.Contains(manifest, []byte(`"org.osbuild.rawfs"`))
}

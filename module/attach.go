package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// OpenCall is a device's call to make itself available.
type OpenCall struct {
	// Dev is the folder that is the stage's /dev.
	Dev string `json:"dev"`
	// Tree is the stage's tree.
	Tree string `json:"tree"`
	// Parent is the parent's node, relative to Dev, or empty.
	Parent  string          `json:"parent"`
	Options json.RawMessage `json:"options"`
}

// OpenReply is what the stage is told of a device.
type OpenReply struct {
	// Path is that of the device's node, relative to OpenCall.Dev.
	Path string `json:"path"`
	Node struct {
		Major uint32 `json:"major"`
		Minor uint32 `json:"minor"`
	} `json:"node"`
}

// Device makes a table entry of a device. check, which says why it cannot work
// here, runs when the service starts. open makes the device available until the
// function that it returns is called.
func Device(name string, check func() error, open func(ctx context.Context, call *OpenCall) (*OpenReply, func() error, error)) Module {
	return Module{Name: name, Main: func(ctx context.Context, argv []string) error {
		if err := check(); err != nil {
			return err
		}
		var h held
		methods := map[string]Method{
			"open": func(ctx context.Context, _ *Service, raw json.RawMessage) (any, []*os.File, error) {
				var call OpenCall
				if err := json.Unmarshal(raw, &call); err != nil {
					return nil, nil, fmt.Errorf("decode open call: %w", err)
				}
				if h.release != nil {
					return nil, nil, errors.New("the device is open already")
				}
				reply, release, err := open(ctx, &call)
				h.release = release
				return reply, nil, err
			},
			"close": func(context.Context, *Service, json.RawMessage) (any, []*os.File, error) {
				return nil, nil, h.let()
			},
		}
		return serve(ctx, name, argv, methods, h.let)
	}}
}

// MountCall is a mount's call to show something to the stage.
type MountCall struct {
	// Source is a device's path, or empty.
	Source string `json:"source"`
	// Target is a path below Root as the manifest has it, or means what the
	// mount says that it means.
	Target string `json:"target"`
	// Root is the folder of all mounts, Tree the stage's tree.
	Root    string          `json:"root"`
	Tree    string          `json:"tree"`
	Options json.RawMessage `json:"options"`
}

// Point makes the mount point of the call's target, and returns its path. What is
// mounted on the way may be the work of a stage: its symbolic links lead nowhere
// outside of Root.
func (c *MountCall) Point() (string, error) {
	point, err := securejoin.SecureJoin(c.Root, c.Target)
	if err != nil {
		return "", fmt.Errorf("find mount point %s: %w", c.Target, err)
	}
	if err := os.MkdirAll(point, 0o755); err != nil {
		return "", fmt.Errorf("make mount point %s: %w", filepath.Join("/", c.Target), err)
	}
	return point, nil
}

// MountModule makes a table entry of a mount whose options decode into O. mount
// returns where below MountCall.Root the stage finds what it mounted, "" for
// nowhere there, and what takes it away again.
func MountModule[O any](name string, mount func(ctx context.Context, call *MountCall, options O) (string, func() error, error)) Module {
	return Module{Name: name, Main: func(ctx context.Context, argv []string) error {
		var h held
		method := func(ctx context.Context, _ *Service, raw json.RawMessage) (any, []*os.File, error) {
			var call MountCall
			var options O
			if err := json.Unmarshal(raw, &call); err != nil {
				return nil, nil, fmt.Errorf("decode mount call: %w", err)
			}
			if len(call.Options) > 0 {
				if err := json.Unmarshal(call.Options, &options); err != nil {
					return nil, nil, fmt.Errorf("decode options: %w", err)
				}
			}
			if h.release != nil {
				return nil, nil, errors.New("it is mounted already")
			}
			path, release, err := mount(ctx, &call, options)
			h.release = release
			if err != nil || path == "" {
				return nil, nil, err
			}
			return path, nil, nil
		}
		return serve(ctx, name, argv, map[string]Method{"mount": method}, h.let)
	}}
}

// held is what a service holds until it ends.
type held struct{ release func() error }

// let lets it go, once.
func (h *held) let() error {
	if h.release == nil {
		return nil
	}
	release := h.release
	h.release = nil
	return release()
}

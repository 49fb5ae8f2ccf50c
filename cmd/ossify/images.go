package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

func storeTag() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "tag ID NAME[:TAG]",
		Short: "Make a checkpoint an image that podman can run",
		Long: `Makes a checkpoint an image of that name, localhost/NAME:latest if there is neither registry nor
tag, and takes the name away from another image of the store. Nothing is copied. Podman sees it with

  podman --root STORE/storage run NAME

The checkpoint stays when podman removes the image, and as long as there is the image.`,
		Args:              arguments(2, 2, "a checkpoint and a name are"),
		ValidArgsFunction: completeIDs(&o, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := store.ImageName(args[1])
			if err != nil {
				return usageError{err}
			}
			return withStore(&o, func(s *store.Store) error {
				list, err := s.Checkpoints()
				if err != nil {
					return err
				}
				c, err := findCheckpoint(list, args[0])
				if err != nil {
					return err
				}
				layer, err := s.Layer(c.Layer)
				if err == nil {
					err = s.Tag(layer, name, c)
				}
				if err == nil {
					fmt.Println(name)
				}
				return err
			})
		},
	}
	o.addStore(cmd)
	return cmd
}

func storeUntag() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "untag NAME[:TAG]",
		Short: "Take an image's name away; the checkpoint stays",
		Args:  arguments(1, 1, "a name is"),
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := store.ImageName(args[0])
			if err != nil {
				return usageError{err}
			}
			return withStore(&o, func(s *store.Store) error { return s.Untag(name) })
		},
	}
	o.addStore(cmd)
	return cmd
}

func storePodmanSetup() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "podman-setup",
		Short: "Print what storage.conf needs for podman to see the store's images",
		Long: `Prints the lines with which podman, buildah and skopeo see the images of the store (ossify store
tag) beside their own, read only. They belong into ~/.config/containers/storage.conf, below
[storage.options] (containers-storage.conf(5)); Podman's own driver has to be overlay, too.`,
		Args: arguments(0, 0, "no arguments are"),
		RunE: func(*cobra.Command, []string) error {
			dir, err := store.Directory(o.store)
			if err != nil {
				return err
			}
			if strings.HasPrefix(o.store, "containers:") {
				return usageError{fmt.Errorf("--store %s is podman's storage: podman sees it anyway", o.store)}
			}
			fmt.Printf("# ~/.config/containers/storage.conf\n[storage]\ndriver = \"overlay\"\n\n[storage.options]\nadditionalimagestores = [%q]\n", filepath.Join(dir, "storage"))
			return nil
		},
	}
	o.addStore(cmd)
	return cmd
}

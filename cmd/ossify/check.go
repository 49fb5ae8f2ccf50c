package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
)

func storeCheck() *cobra.Command {
	var o storeOptions
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read all that the store holds, and name what has changed",
		Long: `Reads all checkpoints, downloads and images, and compares them with what was noted when they were
stored: one line for each damage. Builds can run at the same time.

With --repair what is damaged is removed, with all that is based on it: the next build makes it
again, and only it. A damaged record of all checkpoints is written anew from what lies beside each.

The status is 0 if all is well, or was repaired, and 1 if something is damaged.`,
		Args: arguments(0, 0, "no arguments are"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return checkStore(cmd.Context(), &o, repair, asJSON)
		},
	}
	o.addStore(cmd)
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what is damaged")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func checkStore(ctx context.Context, o *storeOptions, repair, asJSON bool) error {
	// Each record can be damaged, and is repaired by itself.
	for range 2 {
		var damaged *store.MetadataError
		err := withStore(o, func(s *store.Store) error { return checkOpen(ctx, s, repair, asJSON) })
		if !repair || !errors.As(err, &damaged) {
			return err
		}
		if err := sandbox.EnterNamespace(); err != nil {
			return err
		}
		kept, err := store.RepairMetadata(o.store, damaged)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("with %d checkpoints", kept)
		if kept == 0 {
			what = "empty; images that it had are to be made again with ossify store tag"
		}
		fmt.Fprintf(os.Stderr, "ossify: %s was damaged and is written anew, %s\n", damaged.Path, what)
	}
	return withStore(o, func(s *store.Store) error { return checkOpen(ctx, s, repair, asJSON) })
}

func checkOpen(ctx context.Context, s *store.Store, repair, asJSON bool) error {
	found, err := s.Check(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(os.Stdout, found); err != nil {
			return err
		}
	} else {
		for _, d := range found.Damages {
			fmt.Println(plain(d.String(), " "))
		}
		fmt.Printf("checked %d checkpoints, %d downloads and %d images: %d damages\n", found.Checkpoints, found.Downloads, found.Images, len(found.Damages))
		if found.Unknown > 0 {
			fmt.Printf("%d checkpoints could not be compared: they were made by a version of ossify that noted no sums\n", found.Unknown)
		}
	}
	if len(found.Damages) == 0 {
		return nil
	}
	if !repair {
		fmt.Fprintln(os.Stderr, "ossify: ossify store check --repair removes what is damaged and what is based on it; the next build makes it again")
		return reportedError{exitFailed}
	}
	return reportRemoved(s.Repair(found.Damages))(asJSON)
}

package stages

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ossify/ossify/module"
)

type tunedOptions struct {
	Profiles []string `json:"profiles"`
}

// tuned makes profiles of TuneD the active ones. The tree must have them.
func tuned(_ context.Context, args *module.Args, options tunedOptions) error {
	for _, profile := range options.Profiles {
		there, err := hasTunedProfile(args, profile)
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("the tree has no TuneD profile %q: install the package that has it in an earlier stage", profile)
		}
	}
	if err := writeFile(args, "/etc/tuned/active_profile", strings.Join(options.Profiles, " ")+"\n"); err != nil {
		return fmt.Errorf("choose TuneD profiles: %w", err)
	}
	// Or TuneD would choose by itself.
	if err := writeFile(args, "/etc/tuned/profile_mode", "manual\n"); err != nil {
		return fmt.Errorf("choose TuneD profiles: %w", err)
	}
	return nil
}

// hasTunedProfile looks for a profile, which is a folder with a tuned.conf. TuneD
// 2.23 and later have them one folder deeper.
func hasTunedProfile(args *module.Args, profile string) (bool, error) {
	if profile != filepath.Base(profile) || profile == "." || profile == ".." {
		return false, nil
	}
	for _, dir := range []string{"/usr/lib/tuned", "/etc/tuned"} {
		newer, err := treeTarget(args, dir+"/profiles")
		if err != nil {
			return false, err
		}
		if info, err := os.Stat(newer); err == nil && info.IsDir() {
			dir += "/profiles"
		}
		file, err := treeTarget(args, dir+"/"+profile+"/tuned.conf")
		if err != nil {
			return false, err
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return true, nil
		}
	}
	return false, nil
}

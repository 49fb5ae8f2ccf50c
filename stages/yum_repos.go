package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ossify/ossify/ini"
	"github.com/ossify/ossify/module"
)

type yumReposOptions struct {
	Filename string                     `json:"filename"`
	Repos    []ordered[json.RawMessage] `json:"repos"`
}

// yumRepos writes a new file of repositories.
func yumRepos(_ context.Context, args *module.Args, options yumReposOptions) error {
	if options.Filename == "" || options.Repos == nil {
		return errors.New("filename and repos must both be given")
	}
	var config ini.Config
	for i, repo := range options.Repos {
		if err := addRepo(&config, repo); err != nil {
			return fmt.Errorf("repository %d: %w", i, err)
		}
	}
	if err := createFile(args, "/etc/yum.repos.d/"+options.Filename, config.String()); err != nil {
		return fmt.Errorf("write repositories: %w", err)
	}
	return nil
}

// addRepo adds a section with the options that people look for first at its
// beginning, the others in the manifest's order.
func addRepo(config *ini.Config, repo ordered[json.RawMessage]) error {
	places := []string{"id", "name", "baseurl", "metalink", "mirrorlist", "enabled", "gpgcheck", "repo_gpgcheck", "gpgkey"}
	place := func(m member[json.RawMessage]) int {
		if i := slices.Index(places, m.name); i >= 0 {
			return i
		}
		return len(places)
	}
	slices.SortStableFunc(repo, func(a, b member[json.RawMessage]) int { return place(a) - place(b) })
	var id string
	if err := json.Unmarshal(repo[0].value, &id); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if id == "DEFAULT" {
		return errors.New("a repository cannot have the id DEFAULT, which names the defaults of all")
	}
	if config.Has(id) {
		return fmt.Errorf("id %s is that of another repository", id)
	}
	style := iniStyle{separator: " ", yes: "1", no: "0"}
	if err := style.setAll(config.Section(id), repo[1:]); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

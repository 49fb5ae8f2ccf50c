package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type yumConfigOptions struct {
	Config struct {
		HTTPCaching *string `json:"http_caching"`
	} `json:"config"`
	Plugins struct {
		Langpacks *struct {
			Locales []string `json:"locales"`
		} `json:"langpacks"`
	} `json:"plugins"`
}

// yumConfig changes YUM's configuration and that of its plugin langpacks.
func yumConfig(_ context.Context, args *module.Args, options yumConfigOptions) error {
	if caching := options.Config.HTTPCaching; caching != nil {
		if err := setMainOption(args, "/etc/yum.conf", "http_caching", *caching); err != nil {
			return fmt.Errorf("configure YUM: %w", err)
		}
	}
	langpacks := options.Plugins.Langpacks
	if langpacks == nil {
		return nil
	}
	const dir = "/etc/yum/pluginconf.d"
	if err := makeDirs(args, dir); err != nil {
		return fmt.Errorf("configure YUM's plugin langpacks: %w", err)
	}
	if err := setMainOption(args, dir+"/langpacks.conf", "langpack_locales", strings.Join(langpacks.Locales, ", ")); err != nil {
		return fmt.Errorf("configure YUM's plugin langpacks: %w", err)
	}
	return nil
}

// setMainOption sets an option in the section [main] of a file, which is made
// if it is not there.
func setMainOption(args *module.Args, path, name, value string) error {
	file, err := openINI(args, path)
	if err != nil {
		return err
	}
	file.AddSection("main")
	if err := file.Set("main", name, value); err != nil {
		return err
	}
	return writeFile(args, path, file.String())
}

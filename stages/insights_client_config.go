package stages

import (
	"context"
	"fmt"

	"github.com/ossify/ossify/module"
)

type insightsClientConfigOptions struct {
	Config struct {
		Proxy *string `json:"proxy"`
	} `json:"config"`
	Path *string `json:"path"`
}

// insightsClientConfig changes the configuration of Red Hat Insights' client,
// or makes it in a directory that is there.
func insightsClientConfig(_ context.Context, args *module.Args, options insightsClientConfigOptions) error {
	path := "/etc/insights-client/insights-client.conf"
	if options.Path != nil {
		path = *options.Path
	}
	text, err := readTextIfThere(args, path)
	if err != nil {
		return fmt.Errorf("configure insights-client: %w", err)
	}
	var settings []lineSetting
	if options.Config.Proxy != nil {
		settings = append(settings, lineSetting{"proxy", *options.Config.Proxy})
	}
	same := func(line, setting string) bool { return line == setting }
	if err := writeFile(args, path, setLines(text, "=", settings, same)); err != nil {
		return fmt.Errorf("configure insights-client: %w", err)
	}
	return nil
}

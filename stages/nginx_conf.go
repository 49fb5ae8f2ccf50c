package stages

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ossify/ossify/module"
)

type nginxConfOptions struct {
	Path string `json:"path"`
	// Config may hold other members, and names are matched exactly.
	Config map[string]json.RawMessage `json:"config"`
}

// nginxConf writes a configuration of nginx with one server.
func nginxConf(_ context.Context, args *module.Args, options nginxConfOptions) error {
	path, listen, root, pid, daemon := "/etc/nginx/nginx.conf", "*:80", "/usr/share/nginx/html", "/run/nginx.pid", true
	if options.Path != "" {
		path = options.Path
	}
	for name, value := range map[string]any{"listen": &listen, "root": &root, "pid": &pid, "daemon": &daemon} {
		raw, ok := options.Config[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, value); err != nil {
			return fmt.Errorf("decode config.%s: %w", name, err)
		}
	}
	content := fmt.Sprintf(`events {}
http {
  server {
    listen %s;
    root %s;
  }
}

pid %s;
daemon %s;
`, listen, root, pid, map[bool]string{true: "on", false: "off"}[daemon])
	if err := writeFile(args, path, content); err != nil {
		return fmt.Errorf("configure nginx: %w", err)
	}
	return nil
}

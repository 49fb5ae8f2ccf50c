// Package registry is a registry for tests and benchmarks.
package registry

import (
	"context"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // for Handler
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // for Handler
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// Handler serves a registry whose content is in dir. With a user it lets nobody in but them.
func Handler(dir, user, password string) (http.Handler, error) {
	config := &configuration.Configuration{
		Storage: configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": filepath.Join(dir, "content")}},
	}
	config.HTTP.Secret = "of a test"
	config.Log.AccessLog.Disabled = true
	config.Log.Level = "error"
	config.Catalog.MaxEntries = 1000
	if user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "htpasswd")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, []byte(user+":"+string(hash)+"\n"), 0o600); err != nil {
			return nil, err
		}
		config.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "test", "path": file}}
	}
	// It calls an error what a client is told that asks whether something is there.
	logrus.SetLevel(logrus.FatalLevel)
	return handlers.NewApp(context.Background(), config), nil
}

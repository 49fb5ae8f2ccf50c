package stages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ossify/ossify/module"
)

// ostreeDeployment names an OSTree deployment of the tree.
type ostreeDeployment struct {
	OSName string `json:"osname"`
	Ref    string `json:"ref"`
	Serial int    `json:"serial"`
	// Default asks for the only deployment there is, in place of the others.
	Default bool `json:"default"`
}

// find returns the deployment's directory as a path of the tree.
func (d ostreeDeployment) find(args *module.Args) (string, error) {
	if d.Default {
		return d.findOnly(args)
	}
	commit, err := ostreeCommit(args, d.Ref)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/ostree/deploy/%s/deploy/%s.%d", d.OSName, commit, d.Serial), nil
}

func (d ostreeDeployment) findOnly(args *module.Args) (string, error) {
	deploy, err := treeTarget(args, "/ostree/deploy")
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(globEscape(deploy), "*/deploy/*.0"))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", errors.New("there is none in /ostree/deploy")
	case 1:
		below, err := filepath.Rel(deploy, found[0])
		return filepath.Join("/ostree/deploy", below), err
	}
	return "", fmt.Errorf("there are %d in /ostree/deploy: name one with osname and ref", len(found))
}

func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// ostreeCommit returns the commit that a ref of the tree's repository points
// to, as "ostree rev-parse" would: a commit is itself; a ref is looked for
// among heads, mirrors and remotes.
func ostreeCommit(args *module.Args, ref string) (string, error) {
	commit := regexp.MustCompile(`^[0-9a-f]{64}$`)
	if commit.MatchString(ref) {
		return ref, nil
	}
	name := ref
	folders := []string{"heads", "mirrors", "remotes"}
	if remote, rest, ok := strings.Cut(ref, ":"); ok {
		name, folders = filepath.Join(remote, rest), []string{"remotes"}
	}
	for _, folder := range folders {
		path, err := treeTarget(args, filepath.Join("/ostree/repo/refs", folder, filepath.Clean("/"+name)))
		if err != nil {
			return "", err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := strings.TrimSpace(string(data))
		if !commit.MatchString(text) {
			return "", fmt.Errorf("ref %q in /ostree/repo is damaged: it holds %q", ref, text)
		}
		return text, nil
	}
	return "", fmt.Errorf("/ostree/repo has no ref %q", ref)
}

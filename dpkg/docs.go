package dpkg

import (
	"path"
	"strings"
)

// docRoots are what Options.ExcludeDocs leaves out.
var docRoots = []string{
	"/usr/share/doc/", "/usr/share/doc-base/", "/usr/share/man/", "/usr/share/info/", "/usr/share/locale/",
	"/usr/share/groff/", "/usr/share/lintian/", "/usr/share/linda/", "/usr/share/help/",
}

// isDoc says whether a path is documentation that is left out. Copyright files
// stay, as their licences ask, and with them the links to their directories.
func isDoc(name string, dir bool) bool {
	for _, root := range docRoots {
		rest, ok := strings.CutPrefix(name, root)
		if !ok {
			continue
		}
		switch root {
		case "/usr/share/doc/":
			return path.Base(name) != "copyright" && (dir || strings.Contains(rest, "/"))
		case "/usr/share/locale/":
			return rest != "locale.alias"
		}
		return true
	}
	return false
}

package compose

import (
	"path"
	"slices"
	"strings"
)

// fileStages write files: folders first, then contents, then modes, for the
// modes of what is copied are those of the store.
func fileStages(files []File, inline map[string]any) []stage {
	if len(files) == 0 {
		return nil
	}
	var dirs []object
	var made []string
	var refs []string
	var copies []object
	modes := object{}
	for _, f := range files {
		if dir := path.Dir(f.Path); dir != "/" && !slices.Contains(made, dir) {
			made = append(made, dir)
			dirs = append(dirs, object{"path": dir, "mode": 0o755, "parents": true, "exist_ok": true})
		}
		ref := addInline(inline, f.Data)
		if !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
		copies = append(copies, object{"from": "input://files/" + ref, "to": "tree://" + f.Path, "remove_destination": true})
		mode := f.Mode
		if mode == "" {
			mode = "0644"
		}
		modes[f.Path] = object{"mode": string(mode)}
	}
	slices.Sort(refs)
	var out []stage
	if len(dirs) > 0 {
		out = append(out, stage{Type: "org.osbuild.mkdir", Options: object{"paths": dirs}})
	}
	return append(out, stage{
		Type:    "org.osbuild.copy",
		Inputs:  map[string]input{"files": {Type: "org.osbuild.files", Origin: "org.osbuild.source", References: refs}},
		Options: object{"paths": copies},
	}, stage{Type: "org.osbuild.chmod", Options: object{"items": modes}})
}

// customFileStages make the blueprint's directories and files.
func customFileStages(cust *Customizations, inline map[string]any) []stage {
	var out []stage
	var dirs []object
	modes := object{}
	for _, d := range cust.Directories {
		dirs = append(dirs, object{"path": d.Path, "mode": d.Mode.number(0o755), "parents": d.EnsureParents, "exist_ok": true})
		// mkdir leaves the mode of a directory that a package brought,
		// and some bits are taken away by the umask.
		if d.Mode != "" {
			modes[d.Path] = object{"mode": string(d.Mode)}
		}
	}
	if len(dirs) > 0 {
		out = append(out, stage{Type: "org.osbuild.mkdir", Options: object{"paths": dirs}})
	}
	if len(modes) > 0 {
		out = append(out, stage{Type: "org.osbuild.chmod", Options: object{"items": modes}})
	}
	out = append(out, fileStages(cust.Files, inline)...)
	if script := ownerScript(cust); script != "" {
		out = append(out, stage{Type: "org.osbuild.script", Options: object{"script": script}})
	}
	return out
}

// ownerScript gives files and directories to other owners than root. It runs in
// the tree, where their names mean something. The kernel takes setuid and setgid
// bits away when the owner changes, so modes that have them are set again.
func ownerScript(cust *Customizations) string {
	var b strings.Builder
	give := func(name string, user, group Owner, mode Mode) {
		if user.root() && group.root() {
			return
		}
		owner := func(o Owner) string {
			if o.root() {
				return "0"
			}
			return string(o)
		}
		b.WriteString("chown -h " + owner(user) + ":" + owner(group) + " " + quote(name) + "\n")
		if mode.number(0)&0o6000 != 0 {
			b.WriteString("chmod " + string(mode) + " " + quote(name) + "\n")
		}
	}
	for _, d := range cust.Directories {
		give(d.Path, d.User, d.Group, d.Mode)
	}
	for _, f := range cust.Files {
		give(f.Path, f.User, f.Group, f.Mode)
	}
	if b.Len() == 0 {
		return ""
	}
	return "set -e\n" + b.String()
}

// quote makes one word of a POSIX shell of an absolute path.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

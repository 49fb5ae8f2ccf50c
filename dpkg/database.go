package dpkg

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// adminDir is dpkg's database in the tree.
const adminDir = "/var/lib/dpkg"

// database writes dpkg's records of packages that were unpacked. It is used
// only while no dpkg runs in the tree.
type database struct {
	tree *tree
	// interests holds the packages that wait for a trigger, by its name.
	interests map[string][]string
	// activated holds the triggers that dpkg is to process, with the
	// packages that wait for them, or "-" for none.
	activated map[string][]string
	prepared  bool
}

func newDatabase(t *tree) *database {
	return &database{tree: t, interests: map[string][]string{}, activated: map[string][]string{}}
}

// prepare makes what dpkg expects to be there before its first run.
func (db *database) prepare() error {
	if db.prepared {
		return nil
	}
	for _, dir := range []string{"info", "triggers", "updates"} {
		if err := db.tree.mkdirs(path.Join(adminDir, dir)); err != nil {
			return err
		}
	}
	if err := db.tree.writeFile(path.Join(adminDir, "info/format"), []byte("1\n"), 0o644, unix.O_TRUNC); err != nil {
		return err
	}
	db.prepared = true
	return nil
}

// add records a package as unpacked: its files, control files and triggers,
// and last its status. sums are md5sums for a package that brings none,
// conffiles is the value of that field.
func (db *database) add(p *Package, list []string, sums, conffiles string) error {
	if err := db.prepare(); err != nil {
		return err
	}
	if err := db.writeList(p, list); err != nil {
		return err
	}
	hasSums := false
	for _, m := range p.members {
		if m.name == "control" {
			continue // its fields go to the status file
		}
		name := infoPath(p, m.name)
		if err := db.tree.writeFile(name, m.data, uint32(m.mode), unix.O_TRUNC); err != nil {
			return err
		}
		if err := db.tree.setTime(name, m.modTime); err != nil {
			return err
		}
		hasSums = hasSums || m.name == "md5sums"
	}
	if !hasSums {
		if err := db.tree.writeFile(infoPath(p, "md5sums"), []byte(sums), 0o644, unix.O_TRUNC); err != nil {
			return err
		}
	}
	if err := db.addTriggers(p, list); err != nil {
		return err
	}
	return db.addStatus(p, conffiles)
}

func infoPath(p *Package, kind string) string {
	return path.Join(adminDir, "info", p.infoName()+"."+kind)
}

// writeList writes a package's list of files.
func (db *database) writeList(p *Package, list []string) error {
	var b strings.Builder
	for _, name := range list {
		if name == "/" {
			name = "/."
		}
		b.WriteString(name + "\n")
	}
	return db.tree.writeFile(infoPath(p, "list"), []byte(b.String()), 0o644, unix.O_TRUNC)
}

func (db *database) addStatus(p *Package, conffiles string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Package: %s\nStatus: install ok unpacked\n", p.Name)
	for _, f := range p.Control {
		if !strings.EqualFold(f.Name, "Package") {
			fmt.Fprintf(&b, "%s:%s\n", f.Name, padded(f.Value))
		}
	}
	if conffiles != "" {
		fmt.Fprintf(&b, "Conffiles:%s\n", conffiles)
	}
	b.WriteString("\n")
	return db.tree.writeFile(path.Join(adminDir, "status"), []byte(b.String()), 0o644, unix.O_APPEND)
}

// padded puts a blank before a value that begins on the field's line.
func padded(value string) string {
	if strings.HasPrefix(value, "\n") {
		return value
	}
	return " " + value
}

// addTriggers registers the triggers that p waits for (deb-triggers(5)) and
// notes the ones that unpacking p activates.
func (db *database) addTriggers(p *Package, list []string) error {
	for line := range strings.Lines(string(p.controlFile("triggers"))) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 {
			return fmt.Errorf("triggers of package %s: cannot read %q", p.Name, line)
		}
		switch f[0] {
		case "interest", "interest-await", "interest-noawait":
			who := p.infoName()
			if f[0] == "interest-noawait" {
				who += "/noawait"
			}
			if err := db.addInterest(f[1], who); err != nil {
				return err
			}
		case "activate", "activate-await":
			db.activate(f[1], p.infoName())
		case "activate-noawait":
			db.activate(f[1], "-")
		default:
			return fmt.Errorf("triggers of package %s: %q is not known", p.Name, f[0])
		}
	}
	for _, name := range list {
		for ; name != "/"; name = path.Dir(name) {
			if len(db.interests[name]) > 0 {
				db.activate(name, p.infoName())
			}
		}
	}
	return nil
}

func (db *database) activate(trigger, who string) {
	if !slices.Contains(db.activated[trigger], who) {
		db.activated[trigger] = append(db.activated[trigger], who)
	}
}

func (db *database) addInterest(trigger, who string) error {
	db.interests[trigger] = append(db.interests[trigger], who)
	dir := path.Join(adminDir, "triggers")
	if strings.Contains(trigger[1:], "/") && trigger[0] != '/' {
		return fmt.Errorf("trigger %q is neither a name nor an absolute path", trigger)
	}
	if !strings.HasPrefix(trigger, "/") {
		return db.tree.writeFile(path.Join(dir, trigger), []byte(who+"\n"), 0o644, unix.O_APPEND)
	}
	return db.tree.writeFile(path.Join(dir, "File"), []byte(trigger+" "+who+"\n"), 0o644, unix.O_APPEND)
}

// flush hands the activated triggers to dpkg, which drops those of packages
// that are not configured yet: their scripts do the work anyway.
func (db *database) flush() error {
	var b strings.Builder
	// dpkg turns the order around.
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(db.activated))) {
		if len(db.interests[name]) > 0 {
			b.WriteString(name + " " + strings.Join(db.activated[name], " ") + "\n")
		}
	}
	clear(db.activated)
	if b.Len() == 0 {
		return nil
	}
	return db.tree.writeFile(path.Join(adminDir, "triggers/Unincorp"), []byte(b.String()), 0o644, unix.O_APPEND)
}

// notInstalled returns the packages, with their states, that dpkg does not
// hold for properly installed.
func (db *database) notInstalled() ([]string, error) {
	data, err := db.tree.readFile(path.Join(adminDir, "status"))
	if err != nil {
		return nil, err
	}
	paragraphs, err := ParseParagraphs(data)
	if err != nil {
		return nil, fmt.Errorf("read the tree's package status: %w", err)
	}
	var bad []string
	for _, p := range paragraphs {
		if status := p.Get("Status"); status != "install ok installed" {
			bad = append(bad, fmt.Sprintf("%s (%s)", p.Get("Package"), status))
		}
	}
	return bad, nil
}

package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ossify/ossify/pyjson"
)

// checker collects the faults of one manifest.
type checker struct {
	ix      *Index
	name    string
	data    []byte
	offsets map[string]int
	faults  []Fault
	// noted has a text of each fault, which counts once.
	noted map[string]bool
}

func (c *checker) fail(path []any, format string, args ...any) {
	c.add(Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) add(f Fault) {
	text := f.ID() + "\n" + f.Message
	if f.told != nil {
		text += "\n" + pathString(f.told.path) + "\n" + f.told.message
	}
	if c.noted[text] {
		return
	}
	if c.noted == nil {
		c.noted = map[string]bool{}
	}
	c.noted[text] = true
	c.faults = append(c.faults, c.located(f))
}

// located returns the fault with the line of the last step of its path that
// stands in the text.
func (c *checker) located(f Fault) Fault {
	for n := len(f.Path); n > 0; n-- {
		if off, ok := c.offsets[pathString(f.Path[:n])]; ok {
			f.Line, _ = pyjson.Position(c.data, off)
			break
		}
	}
	return f
}

func (c *checker) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	sort.SliceStable(c.faults, func(i, j int) bool { return c.faults[i].ID() < c.faults[j].ID() })
	return &ValidationError{Name: c.name, Faults: c.faults}
}

// check checks value, which is at path, against the schema. osbuild calls the
// place as.
func (c *checker) check(s *schema, value any, path, as []any) {
	for _, b := range s.check(s.doc, value, nil) {
		told := &verdict{below(as, b.path...), b.words}
		for _, f := range b.faults {
			c.add(Fault{Path: below(path, f.Path...), Message: f.Message, told: told})
		}
	}
}

// module finds a module that the manifest names, or notes the fault. osbuild
// calls the place as.
func (c *checker) module(class, name string, path, as []any) *Module {
	m, err := c.ix.Module(class, name)
	if err == nil {
		return m
	}
	f := Fault{Path: path, Message: err.Error(), told: &verdict{as, fmt.Sprintf("could not find schema information for '%s'", name)}}
	if errors.Is(err, fs.ErrNotExist) {
		f.Message = fmt.Sprintf("unknown %s %q%s", strings.ToLower(class), name, c.elsewhere(class, name))
	}
	c.add(f)
	return nil
}

// osbuildLibdir is where distributions install osbuild's modules.
const osbuildLibdir = "/usr/lib/osbuild"

// deviceMapper are osbuild's devices that only root of the machine can make, and why.
var deviceMapper = map[string]string{
	"org.osbuild.luks2":   needsMapper("encrypted disks are"),
	"org.osbuild.lvm2.lv": needsMapper("logical volumes are"),
}

func needsMapper(what string) string {
	return what + " devices of the kernel's device mapper, which only root of the machine can make, and which ossify-loop leaves out: " +
		"leave them out, or run ossify as root with osbuild's modules (--libdir " + osbuildLibdir + ")"
}

// elsewhere says where a module may be that no libdir has.
func (c *checker) elsewhere(class, name string) string {
	if why := deviceMapper[name]; why != "" && class == "Device" {
		return ": " + why
	}
	if c.ix.Foreign != nil && c.ix.Foreign(folders[class], name) {
		if _, err := os.Stat(filepath.Join(osbuildLibdir, folders[class], name)); err == nil {
			return ": ossify has none of its own, but osbuild's is installed here: add --libdir " + osbuildLibdir
		}
		return ": ossify has none of its own; install osbuild and add --libdir " + osbuildLibdir + ", or the path of a checkout"
	}
	near := didYouMean(name, c.ix.Names(class))
	if !strings.HasPrefix(name, "org.osbuild.") || strings.Contains(name, "/") {
		return near
	}
	if _, err := os.Stat(filepath.Join(osbuildLibdir, folders[class], name)); err == nil {
		return "; osbuild's own is installed here: add --libdir " + osbuildLibdir
	}
	return near + " (if it is one of osbuild's, install osbuild and add --libdir " + osbuildLibdir + ")"
}

// checkModule checks a module's use in the manifest. as is path but for mounts
// and for files of format 1.
func (c *checker) checkModule(class, name, version string, value any, path, as []any) *Module {
	m := c.module(class, name, path, as)
	if m == nil {
		return nil
	}
	s, err := c.ix.moduleSchema(m, version)
	if err != nil {
		c.fail(path, "%v", err)
		return nil
	}
	c.check(s, value, path, as)
	return m
}

// didYouMean proposes the known name that is nearest, if any is near.
func didYouMean(name string, known []string) string {
	best, distance := "", len(name)/3+1
	for _, k := range known {
		if d := editDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

package pipeline

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/ossify/ossify/pyjson"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

//go:embed schemas/*.json
var manifestSchemas embed.FS

// compile compiles a schema of draft 4, osbuild's.
func compile(name string, doc *pyjson.Object) (*schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	c.UseRegexpEngine(compileRegexp)
	c.UseLoader(noLoader{})
	c.RegisterVocabulary(&jsonschema.Vocabulary{URL: "mem:///python", Compile: compileStrict})
	for _, format := range formats(doc, nil) {
		// osbuild gives its validator no format checker, so none is checked.
		c.RegisterFormat(&jsonschema.Format{Name: format, Validate: func(any) error { return nil }})
	}
	url := "mem:///" + name
	if err := c.AddResource(url, pyjson.Plain(doc)); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	compiled, err := c.Compile(url)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	return &schema{compiled: compiled, doc: doc}, nil
}

// noLoader refuses references to other documents: a schema of a libdir shall not
// make us read files.
type noLoader struct{}

// Load always fails.
func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a module's schema stands alone, references to other documents are not followed")
}

// formats lists the values of "format" in a schema.
func formats(v any, found []string) []string {
	switch v := v.(type) {
	case *pyjson.Object:
		if f := str(v, "format"); f != "" {
			found = append(found, f)
		}
		for _, k := range v.Keys {
			found = formats(v.Values[k], found)
		}
	case []any:
		for _, item := range v {
			found = formats(item, found)
		}
	}
	return found
}

// strictInteger refuses 1.0 where an integer is asked for, as draft 4 and
// Python's validator do; the library takes it for one.
type strictInteger struct{ want []string }

func compileStrict(_ *jsonschema.CompilerContext, obj map[string]any) (jsonschema.SchemaExt, error) {
	var want []string
	switch t := obj["type"].(type) {
	case string:
		want = []string{t}
	case []any:
		for _, item := range t {
			name, _ := item.(string)
			want = append(want, name)
		}
	}
	if !slices.Contains(want, "integer") || slices.Contains(want, "number") {
		return nil, nil
	}
	return &strictInteger{want}, nil
}

// Validate reports v if it is a float.
func (e *strictInteger) Validate(ctx *jsonschema.ValidatorContext, v any) {
	if n, ok := v.(json.Number); ok && strings.ContainsAny(string(n), ".e") {
		ctx.AddError(&kind.Type{Got: "number", Want: e.want})
	}
}

// pattern is a regular expression with Python's meaning, for which .NET's come
// nearest: lookaheads, Unicode classes, and $ before a last newline.
type pattern struct {
	re   *regexp2.Regexp
	text string
}

// matchTimeout ends a match that backtracks without end.
const matchTimeout = 10 * time.Second

func compileRegexp(s string) (jsonschema.Regexp, error) {
	re, err := regexp2.Compile(fromPython(s), regexp2.None)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = matchTimeout
	return &pattern{re, s}, nil
}

// fromPython rewrites what Python spells differently: \Z is the very end,
// named groups are (?P<name>...), and _ may be escaped.
func fromPython(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case '_':
				b.WriteByte('_')
			case 'Z':
				b.WriteString(`\z`)
			default:
				b.WriteString(s[i-1 : i+1])
			}
		case strings.HasPrefix(s[i:], "(?P<"):
			b.WriteString("(?<")
			i += len("(?P<") - 1
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// MatchString says whether a part of s matches.
func (p *pattern) MatchString(s string) bool {
	ok, err := p.re.MatchString(s)
	return err == nil && ok
}

func (p *pattern) String() string { return p.text }

// manifestSchema is the schema of a whole manifest of a version.
func (ix *Index) manifestSchema(version string) (*schema, error) {
	return ix.cached("Manifest", "", version, func() (*pyjson.Object, error) {
		data, err := manifestSchemas.ReadFile("schemas/manifest" + version + ".json")
		if err != nil {
			return nil, err
		}
		return object(data)
	})
}

func (ix *Index) cached(class, name, version string, doc func() (*pyjson.Object, error)) (*schema, error) {
	key := [3]string{class, name, version}
	if s := ix.schemas[key]; s != nil {
		return s, nil
	}
	d, err := doc()
	if err != nil {
		return nil, err
	}
	s, err := compile(class+"-"+name+"-"+version, d)
	if err != nil {
		return nil, err
	}
	ix.schemas[key] = s
	return s, nil
}

// moduleSchema is the schema of a module's use in a manifest of a version: the
// module's own part, wrapped as osbuild does (osbuild/meta.py, get_schema).
func (ix *Index) moduleSchema(m *Module, version string) (*schema, error) {
	s, err := ix.cached(m.Class, m.Name, version, func() (*pyjson.Object, error) {
		v1, err := object(m.Meta.Schema)
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		v2, err := object(m.Meta.Schema2)
		if err != nil {
			return nil, fmt.Errorf("schema_2: %w", err)
		}
		return wrap(m, version, v1, v2)
	})
	if err != nil {
		return nil, fmt.Errorf("the module %s does not describe itself well: %w", m.Path, err)
	}
	return s, nil
}

// wrap makes the schema of a module's use in a manifest of the module's own
// schemas, which are copied where they are changed.
func wrap(m *Module, version string, v1, v2 *pyjson.Object) (*pyjson.Object, error) {
	out, props := pyjson.NewObject(), pyjson.NewObject()
	out.Set("type", "object")
	out.Set("additionalProperties", false)
	named := pyjson.NewObject()
	named.Set("enum", []any{m.Name})
	own := v1
	if version == "2" && len(v2.Keys) > 0 {
		own = v2
	}
	switch m.Class {
	case "Stage", "Assembler":
		id := "name"
		if version == "2" {
			id = "type"
		}
		props.Set(id, named)
		if version == "2" && len(v2.Keys) > 0 {
			merge(props, v2)
		} else {
			props.Set("options", v1)
		}
		for _, group := range [][2]string{{"mounts", "array"}, {"devices", "object"}} {
			if _, ok := props.Values[group[0]]; !ok {
				free := pyjson.NewObject()
				free.Set("type", group[1])
				props.Set(group[0], free)
			}
		}
		out.Set("properties", props)
		out.Set("required", []any{id})
		return hoistDefinitions(out), nil
	case "Mount":
		own = v2 // format 1 has no mounts
	}
	if len(own.Keys) == 0 {
		return nil, fmt.Errorf("%s has no schema for manifests of version %s", m.Name, version)
	}
	switch m.Class {
	case "Device":
		out.Set("additionalProperties", true)
		props.Set("type", named)
		props.Set("options", own)
		out.Set("properties", props)
	case "Mount":
		merge(out, own)
		merge(props, obj(own, "properties"))
		props.Set("type", named)
		out.Set("properties", props)
	default:
		merge(out, own)
	}
	return hoistDefinitions(out), nil
}

func merge(to, from *pyjson.Object) {
	for _, k := range from.Keys {
		to.Set(k, from.Values[k])
	}
}

// hoistDefinitions moves definitions to the root, as references in modules'
// schemas are written as if they stood there.
func hoistDefinitions(out *pyjson.Object) *pyjson.Object {
	props, ok := out.Get("properties").(*pyjson.Object)
	if !ok {
		return out
	}
	props = without(props, "definitions", out)
	out.Set("properties", props)
	if options, ok := props.Get("options").(*pyjson.Object); ok {
		props.Set("options", without(options, "definitions", out))
	}
	return out
}

// without returns o without the key, whose value it sets in to.
func without(o *pyjson.Object, key string, to *pyjson.Object) *pyjson.Object {
	rest := pyjson.NewObject()
	for _, k := range o.Keys {
		if k == key {
			to.Set(k, o.Values[k])
		} else {
			rest.Set(k, o.Values[k])
		}
	}
	return rest
}

func object(raw json.RawMessage) (*pyjson.Object, error) {
	if len(raw) == 0 {
		return pyjson.NewObject(), nil
	}
	doc, err := pyjson.Decode(raw, nil)
	if err != nil {
		return nil, err
	}
	o, ok := doc.(*pyjson.Object)
	if !ok {
		return nil, errors.New("not an object")
	}
	return o, nil
}

// checker collects the faults of one manifest.
type checker struct {
	ix      *Index
	name    string
	data    []byte
	offsets map[string]int
	faults  []Fault
}

func (c *checker) fail(path []any, format string, args ...any) {
	c.add(Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) add(f Fault) {
	f.Path = append([]any(nil), f.Path...)
	for n := len(f.Path); n > 0; n-- {
		if off, ok := c.offsets[pathString(f.Path[:n])]; ok {
			f.Line, _ = pyjson.Position(c.data, off)
			break
		}
	}
	for _, old := range c.faults {
		if old.Message == f.Message && old.ID() == f.ID() {
			return
		}
	}
	c.faults = append(c.faults, f)
}

func (c *checker) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	sort.SliceStable(c.faults, func(i, j int) bool { return c.faults[i].ID() < c.faults[j].ID() })
	return &ValidationError{Name: c.name, Faults: c.faults}
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

// elsewhere says where a module may be that no libdir has.
func (c *checker) elsewhere(class, name string) string {
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

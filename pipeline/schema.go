package pipeline

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"

	"github.com/dlclark/regexp2"
	"github.com/ossify/ossify/pyjson"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed schemas/*.json
var manifestSchemas embed.FS

// ValidationError lists what is wrong with a manifest.
type ValidationError struct {
	// Name of the manifest.
	Name   string
	Faults []Fault
}

// Fault is one thing that is wrong with a manifest.
type Fault struct {
	// Path leads to the value: strings and ints.
	Path []any
	// Line counts from 1; 0 is unknown.
	Line    int
	Message string
}

// ID writes the fault's path as osbuild does.
func (f Fault) ID() string {
	if len(f.Path) == 0 {
		return "."
	}
	return pathString(f.Path)
}

func pathString(path []any) string {
	var b strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case string:
			b.WriteString(pyjson.Member(step))
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		}
	}
	return b.String()
}

// Error lists the faults, one a line.
func (e *ValidationError) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Name)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		if len(f.Path) > 0 {
			b.WriteString(": " + f.ID())
		}
		b.WriteString(": " + f.Message)
	}
	return b.String()
}

// MarshalJSON writes the faults in osbuild's form (osbuild/meta.py,
// ValidationResult.as_dict).
func (e *ValidationError) MarshalJSON() ([]byte, error) {
	type entry struct {
		Message string `json:"message"`
		Path    []any  `json:"path"`
	}
	entries := []entry{}
	for _, f := range e.Faults {
		path := f.Path
		if path == nil {
			path = []any{}
		}
		entries = append(entries, entry{f.Message, path})
	}
	return json.Marshal(map[string]any{
		"type":    "https://osbuild.org/validation-error",
		"title":   "JSON Schema validation failed",
		"success": false,
		"errors":  entries,
	})
}

// compile compiles a schema of draft 4, osbuild's.
func compile(name string, doc any) (*schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	c.UseRegexpEngine(compileRegexp)
	url := "mem:///" + name
	if err := c.AddResource(url, doc); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	compiled, err := c.Compile(url)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	return &schema{compiled: compiled, doc: doc}, nil
}

// ecma is a regular expression with the lookaheads that osbuild's schemas use
// and Go's own do not have.
type ecma regexp2.Regexp

func compileRegexp(s string) (jsonschema.Regexp, error) {
	re, err := regexp2.Compile(s, regexp2.ECMAScript)
	if err != nil {
		return nil, err
	}
	return (*ecma)(re), nil
}

// MatchString says whether s matches.
func (re *ecma) MatchString(s string) bool {
	ok, err := (*regexp2.Regexp)(re).MatchString(s)
	return err == nil && ok
}

func (re *ecma) String() string { return (*regexp2.Regexp)(re).String() }

// manifestSchema is the schema of a whole manifest of a version.
func (ix *Index) manifestSchema(version string) (*schema, error) {
	return ix.cached("Manifest", "", version, func() (any, error) {
		data, err := manifestSchemas.ReadFile("schemas/manifest" + version + ".json")
		if err != nil {
			return nil, err
		}
		return jsonschema.UnmarshalJSON(bytes.NewReader(data))
	})
}

func (ix *Index) cached(class, name, version string, doc func() (any, error)) (*schema, error) {
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
	return ix.cached(m.Class, m.Name, version, func() (any, error) {
		v1, err := object(m.Meta.Schema)
		if err != nil {
			return nil, fmt.Errorf("%s: schema: %w", m.Name, err)
		}
		v2, err := object(m.Meta.Schema2)
		if err != nil {
			return nil, fmt.Errorf("%s: schema_2: %w", m.Name, err)
		}
		out := map[string]any{"type": "object", "additionalProperties": false}
		own := v1
		if version == "2" && len(v2) > 0 {
			own = v2
		}
		switch m.Class {
		case "Stage", "Assembler":
			id := "type"
			props := map[string]any{}
			switch {
			case version == "1":
				id = "name"
				props["options"] = v1
			case len(v2) > 0:
				for k, v := range v2 {
					props[k] = v
				}
			default:
				props["options"] = v1
			}
			props[id] = map[string]any{"enum": []any{m.Name}}
			if props["mounts"] == nil {
				props["mounts"] = map[string]any{"type": "array"}
			}
			if props["devices"] == nil {
				props["devices"] = map[string]any{"type": "object"}
			}
			out["properties"] = props
			out["required"] = []any{id}
		case "Device":
			out["additionalProperties"] = true
			out["properties"] = map[string]any{"type": map[string]any{"enum": []any{m.Name}}, "options": own}
		default:
			if len(own) == 0 {
				return nil, fmt.Errorf("%s has no schema for manifests of version %s", m.Name, version)
			}
			for k, v := range own {
				out[k] = v
			}
			if m.Class == "Mount" {
				props, _ := out["properties"].(map[string]any)
				if props == nil {
					props = map[string]any{}
				}
				props["type"] = map[string]any{"enum": []any{m.Name}}
				out["properties"] = props
			}
		}
		hoistDefinitions(out)
		return out, nil
	})
}

// hoistDefinitions moves definitions to the root, as references in modules'
// schemas are written as if they stood there.
func hoistDefinitions(out map[string]any) {
	props, _ := out["properties"].(map[string]any)
	if d, ok := props["definitions"]; ok {
		out["definitions"] = d
		delete(props, "definitions")
	}
	if options, ok := props["options"].(map[string]any); ok {
		if d, ok := options["definitions"]; ok {
			out["definitions"] = d
			delete(options, "definitions")
		}
	}
}

func object(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	m, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return m, nil
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
	f := Fault{Path: append([]any(nil), path...), Message: fmt.Sprintf(format, args...)}
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

// check checks value, which is at path, against the schema.
func (c *checker) check(s *schema, value any, path []any) {
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(pyjson.Plain(value)); !errors.As(err, &invalid) {
		if err != nil {
			c.fail(path, "%v", err)
		}
		return
	}
	c.report(s, invalid, value, path)
}

var printer = message.NewPrinter(language.English)

// report turns the library's tree of errors into faults: the leaves, but for
// alternatives, which are one fault.
func (c *checker) report(s *schema, e *jsonschema.ValidationError, value any, path []any) {
	at := append(append([]any(nil), path...), steps(value, e.InstanceLocation)...)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		allowed := s.allowed(e.SchemaURL)
		for _, name := range k.Properties {
			msg := fmt.Sprintf("%q is not allowed here", name)
			if len(allowed) > 0 {
				msg += "; allowed: " + strings.Join(allowed, ", ")
			}
			c.fail(append(at, name), "%s%s", msg, didYouMean(name, allowed))
		}
		return
	case *kind.Required:
		for _, name := range k.Missing {
			c.fail(at, "%q is missing", name)
		}
		return
	case *kind.Type:
		c.fail(at, "must be %s, not %s", strings.Join(k.Want, " or "), k.Got)
		return
	case *kind.Enum:
		var want []string
		for _, w := range k.Want {
			text, err := json.Marshal(w)
			if err != nil {
				text = []byte(fmt.Sprint(w))
			}
			want = append(want, string(text))
		}
		got, err := json.Marshal(k.Got)
		if err != nil {
			got = []byte(fmt.Sprint(k.Got))
		}
		c.fail(at, "%s is not one of %s", got, strings.Join(want, ", "))
		return
	case *kind.OneOf, *kind.AnyOf:
		if best := deepest(e.Causes); best != nil {
			c.report(s, best, value, path)
			return
		}
	}
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			c.report(s, cause, value, path)
		}
		return
	}
	c.fail(at, "%s", e.ErrorKind.LocalizedString(printer))
}

// deepest returns the alternative that got furthest into the value, which is
// most likely the one that was meant; nil if there is no such one.
func deepest(causes []*jsonschema.ValidationError) *jsonschema.ValidationError {
	var best *jsonschema.ValidationError
	depth, tie := -1, false
	for _, c := range causes {
		d := reach(c)
		switch {
		case d > depth:
			best, depth, tie = c, d, false
		case d == depth:
			tie = true
		}
	}
	if tie {
		return nil
	}
	return best
}

func reach(e *jsonschema.ValidationError) int {
	d := len(e.InstanceLocation)
	for _, c := range e.Causes {
		d = max(d, reach(c))
	}
	return d
}

// steps turns a JSON pointer's steps into keys and indexes of value.
func steps(value any, pointer []string) []any {
	var path []any
	for _, step := range pointer {
		switch v := value.(type) {
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(v) {
				return path
			}
			path, value = append(path, i), v[i]
		case *pyjson.Object:
			path, value = append(path, step), v.Get(step)
		default:
			return path
		}
	}
	return path
}

// allowed lists the property names that the schema at that URL knows.
func (s *schema) allowed(url string) []string {
	_, fragment, _ := strings.Cut(url, "#")
	doc := s.doc
	for _, step := range strings.Split(strings.Trim(fragment, "/"), "/") {
		if step == "" {
			continue
		}
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch d := doc.(type) {
		case map[string]any:
			doc = d[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(d) {
				return nil
			}
			doc = d[i]
		}
	}
	m, _ := doc.(map[string]any)
	props, _ := m["properties"].(map[string]any)
	return sortedKeys(props)
}

// module finds a module that the manifest names, or notes the fault.
func (c *checker) module(class, name string, path []any) *Module {
	m, err := c.ix.Module(class, name)
	if errors.Is(err, fs.ErrNotExist) {
		c.fail(path, "unknown %s %q%s", strings.ToLower(class), name, didYouMean(name, c.ix.Names(class)))
		return nil
	}
	if err != nil {
		c.fail(path, "%v", err)
		return nil
	}
	return m
}

// checkModule checks a module's use in the manifest.
func (c *checker) checkModule(class, name, version string, value any, path []any) *Module {
	m := c.module(class, name, path)
	if m == nil {
		return nil
	}
	s, err := c.ix.moduleSchema(m, version)
	if err != nil {
		c.fail(path, "%v", err)
		return nil
	}
	c.check(s, value, path)
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

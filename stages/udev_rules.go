package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ossify/ossify/module"
)

type udevRulesOptions struct {
	Filename string     `json:"filename"`
	Rules    []udevRule `json:"rules"`
}

// udevRule is a list of terms or, instead, a comment.
type udevRule struct {
	terms   []udevTerm
	comment []string
}

// UnmarshalJSON decodes a list or an object.
func (r *udevRule) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, &r.terms)
	}
	var object struct {
		Comment []string `json:"comment"`
	}
	err := json.Unmarshal(data, &object)
	r.comment = append([]string{}, object.Comment...)
	return err
}

// udevTerm is a match or an assignment.
type udevTerm struct {
	Key udevKey `json:"key"`
	Op  string  `json:"op"`
	Val string  `json:"val"`
}

// udevKey is a name, or a name with an argument.
type udevKey struct {
	Name string  `json:"name"`
	Arg  *string `json:"arg"`
}

// UnmarshalJSON decodes a string or an object.
func (k *udevKey) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &k.Name)
	}
	type plain udevKey
	return json.Unmarshal(data, (*plain)(k))
}

func (t udevTerm) String() string {
	key := t.Key.Name
	if t.Key.Arg != nil {
		key += "{" + *t.Key.Arg + "}"
	}
	return key + t.Op + `"` + strings.ReplaceAll(t.Val, `"`, `\"`) + `"`
}

// udevRules writes a file of rules for udev.
func udevRules(_ context.Context, args *module.Args, options udevRulesOptions) error {
	var out strings.Builder
	for _, rule := range options.Rules {
		for _, line := range rule.comment {
			out.WriteString("# " + line + "\n")
		}
		if rule.comment != nil {
			continue
		}
		var terms []string
		for _, term := range rule.terms {
			terms = append(terms, term.String())
		}
		out.WriteString(strings.Join(terms, ", ") + "\n")
	}
	if err := writeFile(args, options.Filename, out.String()); err != nil {
		return fmt.Errorf("write rules for udev: %w", err)
	}
	return nil
}

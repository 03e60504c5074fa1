package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/secret"
)

// object is a YAML mapping being read. It knows its lines, and what to call itself in an error.
type object struct {
	doc   *document
	up    *object
	title string
	node  *yaml.Node
	lines map[string]int  // Of the fields that are there.
	done  map[string]bool // Fields of which nothing more is to be said: the first problem is usually the cause of the next.
}

// newObject returns the object of node, with nothing read yet. The top of a file has no title and is inside nothing.
func newObject(doc *document, up *object, title string, node *yaml.Node) *object {
	return &object{doc, up, title, node, map[string]int{}, map[string]bool{}}
}

// path says where o is: `provider "x": key "y": `.
func (o *object) path() string {
	if o == nil || o.up == nil {
		return ""
	}
	return o.up.path() + o.title + ": "
}

// line returns the line of a field, or of the whole object if the field is not there.
func (o *object) line(field string) int {
	if line, ok := o.lines[field]; ok {
		return line
	}
	return o.node.Line
}

// fail notes a problem with a field, unless there is one already.
func (o *object) fail(field, format string, args ...any) {
	if o.node.Kind == yaml.MappingNode && !o.done[field] {
		o.done[field] = true
		o.failAt(o.line(field), format, args...)
	}
}

// failAll notes what an object found wrong with itself.
func (o *object) failAll(faults []fault) {
	for _, f := range faults {
		o.fail(f.field, "%s", f.text)
	}
}

// failAt notes a problem with something at a line.
func (o *object) failAt(line int, format string, args ...any) {
	o.doc.fail(line, o, fmt.Sprintf(format, args...))
}

// setter stores the value of a field. Its error completes a sentence that begins with the field's name, and never repeats the value.
type setter func(value *yaml.Node) error

// fields are all fields that an object may have.
type fields map[string]setter

// read stores the object's fields. One that is null counts as absent.
func (o *object) read(known fields) {
	if o.node.Kind != yaml.MappingNode {
		o.failAt(o.node.Line, `expected fields, one "name: value" a line`)
		return
	}
	for i := 0; i < len(o.node.Content); i += 2 {
		field, value := o.node.Content[i].Value, o.node.Content[i+1]
		line := o.node.Content[i].Line
		set, ok := known[field]
		if !ok {
			o.failAt(line, "unknown field %s; known here: %s", quote(field), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			continue
		}
		if first, twice := o.lines[field]; twice {
			o.failAt(line, "%s is given twice; it is on line %d already", field, first)
			continue
		}
		o.lines[field] = line
		if value.ShortTag() == "!!null" {
			continue
		}
		if err := set(value); err != nil {
			o.fail(field, "%s %v", field, err)
		}
	}
}

func text(dst *string) setter {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode {
			return errors.New("must be a single text")
		}
		*dst = n.Value
		return nil
	}
}

// texts stores a list of texts, such as the words of a command.
func texts(dst *[]string) setter {
	return func(n *yaml.Node) error {
		var entries []*yaml.Node
		if err := list(&entries)(n); err != nil {
			return err
		}
		*dst = make([]string, len(entries))
		for i, e := range entries {
			if err := text(&(*dst)[i])(e); err != nil {
				return errors.New("must be a list of texts")
			}
		}
		return nil
	}
}

func whole[T int | int64](dst *T) setter {
	return func(n *yaml.Node) error {
		// The tag first: Decode would cut 1.5 down to 1.
		if n.ShortTag() != "!!int" || n.Decode(dst) != nil {
			return errors.New("must be a whole number, in digits and without quotes")
		}
		return nil
	}
}

func boolean(dst *bool) setter {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.Decode(dst) != nil {
			return errors.New("must be true or false")
		}
		return nil
	}
}

func duration(dst *time.Duration) setter {
	return func(n *yaml.Node) error {
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return errors.New("must be a duration with its unit, such as 500ms, 2s or 1m30s")
		}
		*dst = d
		return nil
	}
}

// optional stores a pointer, which stays nil when the field is absent.
func optional[T any](dst **T, kind func(*T) setter) setter {
	return func(n *yaml.Node) error {
		var value T
		if err := kind(&value)(n); err != nil {
			return err
		}
		*dst = &value
		return nil
	}
}

// inside reads the fields of an object inside o.
func (o *object) inside(title string, read func(at *object)) setter {
	return func(n *yaml.Node) error {
		read(newObject(o.doc, o, title, n))
		return nil
	}
}

// list stores the entries of a list unread.
func list(dst *[]*yaml.Node) setter {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return errors.New(`must be a list, such as [a, b], or one "- " line for each entry`)
		}
		*dst = n.Content
		return nil
	}
}

// each reads a list's entries, which are objects with a name each in a field. The n of read counts from 1; it returns the name.
// Each returns the names, with their lines.
func (o *object) each(kind, field string, entries []*yaml.Node, read func(at *object, n int) string) map[string]int {
	names := map[string]int{}
	for i, entry := range entries {
		at := newObject(o.doc, o, fmt.Sprintf("%s #%d", kind, i+1), entry)
		name := read(at, i+1)
		at.checkName(field, name)
		if nameShape.MatchString(name) && !secret.Resembles(name) {
			at.title = kind + " " + strconv.Quote(name)
		}
		if first, twice := names[name]; twice {
			at.fail(field, "%s %s is used twice; it is on line %d already", field, quote(name), first)
		} else {
			names[name] = at.line(field)
		}
	}
	return names
}

// word is one entry of a list of texts.
type word struct {
	text string
	line int
}

type words []word

// read stores a list of texts, all different and none empty.
func (w *words) read(o *object) setter {
	return func(n *yaml.Node) error {
		var entries []*yaml.Node
		if err := list(&entries)(n); err != nil {
			return err
		}
		seen := map[string]int{}
		for _, e := range entries {
			first, twice := seen[e.Value]
			switch {
			case e.Kind != yaml.ScalarNode || e.ShortTag() == "!!null" || strings.TrimSpace(e.Value) == "":
				o.failAt(e.Line, "an entry of the list is empty or no text; remove it")
			case twice:
				o.failAt(e.Line, "%s is listed twice; it is on line %d already", quote(e.Value), first)
			default:
				seen[e.Value] = e.Line
				*w = append(*w, word{e.Value, e.Line})
			}
		}
		return nil
	}
}

func (w words) texts() (out []string) {
	for _, word := range w {
		out = append(out, word.text)
	}
	return out
}

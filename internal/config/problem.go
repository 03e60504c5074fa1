package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/keybroker/keybroker/internal/secret"
)

// document is one file being read, and what is wrong with it so far.
type document struct {
	name     string
	problems []problem
}

// problem is one thing wrong. Who it concerns is asked last, when names have been read.
type problem struct {
	line int
	at   *object
	text string
}

func (d *document) fail(line int, at *object, text string) {
	d.problems = append(d.problems, problem{line, at, text})
}

// err returns all problems by line, one a line, or nil.
func (d *document) err() error {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, p := range d.problems {
		errs = append(errs, fmt.Errorf("%s:%d: %s%s", d.name, p.line, p.at.path(), p.text))
	}
	return errors.Join(errs...)
}

var (
	nameShape  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	shownShape = regexp.MustCompile(`^[A-Za-z0-9_*][A-Za-z0-9_.:/*-]{0,62}$`)
)

// quote returns text for an error, if it can be nothing but a name: whoever pastes a key into the wrong field must not find it in
// a log.
func quote(text string) string {
	if !shownShape.MatchString(text) || secret.Resembles(text) {
		return "(not shown)"
	}
	return strconv.Quote(text)
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	maxFileSize    = 4 << 20
	maxKeyFileSize = 64 << 10 // also of what a helper prints
)

var errTooLarge = errors.New("the file is too large")

// Options are what a configuration is read with.
type Options struct {
	// Types are the provider types that the program knows, each with the address that it has of its own, if any. Any other type is
	// an error.
	Types map[string]string
	// Plaintext is as if the file said server.plaintext, unless it says server.tls.
	Plaintext bool
	// Getenv looks up an environment variable, and reports whether it is set. Default [os.LookupEnv].
	Getenv func(name string) (string, bool)
}

// Load reads the file at path, of 4 MiB at most, as [Parse] does.
func Load(path string, opts Options) (*Config, error) {
	data, err := readFile(path, maxFileSize)
	if errors.Is(err, errTooLarge) {
		return nil, fmt.Errorf("%s: the file is larger than 4 MiB; a configuration never is: check the path", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data, opts)
}

// Parse reads a configuration from data. The name stands for the file in errors, and its folder is where relative key files are.
// The error lists every problem found, one a line, by line number; none repeats a key.
func Parse(name string, data []byte, opts Options) (*Config, error) {
	if opts.Getenv == nil {
		opts.Getenv = os.LookupEnv
	}
	doc := &document{name: name}
	root := doc.root(data)
	if err := doc.err(); err != nil {
		return nil, err
	}
	p := &parser{opts: opts, dir: filepath.Dir(name), credentials: map[credential]*object{}, further: map[string]*object{}}
	c := p.config(newObject(doc, nil, "", root))
	if err := doc.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// root returns the top node of the only YAML document in data, or notes why there is none.
func (d *document) root(data []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && doc.Content[0].ShortTag() == "!!null" {
		d.fail(1, nil, "the file is empty; it needs at least providers")
		return nil
	}
	if err == nil {
		if err = decoder.Decode(&more); errors.Is(err, io.EOF) {
			d.refuseAliases(doc.Content[0])
			return doc.Content[0]
		}
	}
	if err != nil {
		d.failYAML(err)
		return nil
	}
	d.fail(more.Line, nil, "a second YAML document begins; keep everything in one, without ---")
	return nil
}

// refuseAliases keeps lines exact and work in proportion to the file: a few nested aliases can stand for billions of nodes.
func (d *document) refuseAliases(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		d.fail(n.Line, nil, "YAML aliases (*name) are not supported; write the value out")
	}
	for _, child := range n.Content {
		d.refuseAliases(child)
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// failYAML notes an error of the YAML library. Its text may quote the file, so only the line is used, which may be one off.
func (d *document) failYAML(err error) {
	match := yamlLine.FindStringSubmatch(err.Error())
	if match == nil {
		d.fail(1, nil, "not valid YAML somewhere in the file; check values that begin with * and have no quotes")
		return
	}
	line, _ := strconv.Atoi(match[1])
	d.fail(line, nil, "not valid YAML near this line; check indentation (no tabs), colons and quotes")
}

// readKeyFile returns the key in a file, without the newline at its end. The error does not name the file: the field that gives
// its path may hold a key by mistake.
func (p *parser) readKeyFile(path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.dir, path)
	}
	data, err := readFile(path, maxKeyFileSize)
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &pathErr):
		return "", fmt.Errorf("cannot be read: %w; check the path, which is relative to the configuration file", pathErr.Err)
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", err)
	case strings.TrimSpace(string(data)) == "":
		return "", errors.New("is an empty file; write the key into it")
	}
	return withoutNewline(data), nil
}

func withoutNewline(data []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
}

// readFile returns a whole file, or errTooLarge after reading no more than limit bytes and one.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLarge
	}
	return data, err
}

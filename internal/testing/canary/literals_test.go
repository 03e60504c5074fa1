package canary

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A key without the mark is one that the canary cannot find. These are what makes a text
// in a test's source a key:
var (
	// It begins as providers' keys do, or as those of the sandbox's configuration. What
	// stops in the middle, as "sk-", is a pattern or goes on elsewhere.
	prefixed = regexp.MustCompile(`\b(?:sk-|gsk_|xai-|ghp_|github_pat_|AIza|AKIA|hf_|pplx-|r8_|sandbox-(?:anthropic|openai)-)[A-Za-z0-9][A-Za-z0-9_-]*`)
	// It is the value of a key in a configuration; not a variable or a part of a format.
	configured = regexp.MustCompile(`(?m)(?:^|[{,])[ -]*\b(?:key|api_key): *["']?([A-Za-z0-9][^\s,}\]"'$]*(?:$|[\s,}\]"']))`)
	// It is sent as one.
	sent = regexp.MustCompile(`^(?i:(?:x-api-key|x-goog-api-key|api-key)$)`)
)

// exceptions are keys without the mark, by file and by how the key begins.
var exceptions = []struct{ file, key, why string }{
	{"internal/testing/canary/", "", "it plants keys, and says what they look like"},
	{"internal/config/config_test.go", " \t", "a key that is blank"},
	{"internal/config/config_test.go", "sk\n", "no key, for its white space"},
	{"cmd/keybroker/audit_test.go", "flags", "a part of an error about --key"},
	{"internal/config/load_test.go", "sk-ant-6", "it is in config/example.yaml, and is replaced by one with the mark"},
	{"internal/config/problem_test.go", "sk-x", "texts of which each must not be shown, in the shortest forms that there are"},
	{"internal/config/problem_test.go", "sk-ant-api03-x", "the same"},
	{"internal/config/problem_test.go", "AIzaSyD3k9", "the same"},
	{"internal/secret/secret_test.go", "AIzaSyD3k9", "the same"},
}

// TestKeysHaveTheMark reads all tests of the repository, of sdktest too. A string is
// looked at as a whole literal of Go; one that is put together is seen in its parts, so
// that "key: " + value is as good as its value. Beside what a string looks like, it
// counts where it stands: in secret.New("…"), in a field ApiKey, in a list Keys, and
// behind the name of a header.
func TestKeysHaveTheMark(t *testing.T) {
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	read, used := 0, map[int]bool{}
	var bad []string
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "node_modules" || strings.HasPrefix(e.Name(), ".") && path != root):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		read++
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		for pos, keys := range keysIn(file) {
			for _, key := range keys {
				if !excepted(filepath.ToSlash(name), key, used) {
					bad = append(bad, fmt.Sprintf("%s:%d: %s", name, fset.Position(pos).Line, key))
				}
			}
		}
		return err
	})
	require.NoError(t, err)
	slices.Sort(bad)
	assert.Empty(t, bad, "keys without the mark: use canary.Key")
	assert.Greater(t, read, 100)
	for i, e := range exceptions {
		assert.True(t, used[i], "nothing needs the exception %v", e)
	}
}

func excepted(file, key string, used map[int]bool) bool {
	for i, e := range exceptions {
		if strings.HasPrefix(file, e.file) && strings.HasPrefix(key, e.key) {
			used[i] = true
			return true
		}
	}
	return false
}

// unmarked is keys without the mark, by where they stand.
type unmarked map[token.Pos][]string

// keysIn finds the keys without the mark in a file.
func keysIn(file *ast.File) unmarked {
	found := unmarked{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			found.byForm(n)
		case *ast.CallExpr:
			found.inCall(n)
		case *ast.KeyValueExpr:
			found.inField(n)
		}
		return true
	})
	return found
}

func (u unmarked) note(pos token.Pos, key string) {
	if key != "" && !strings.Contains(key, Mark) && !slices.Contains(u[pos], key) {
		u[pos] = append(u[pos], key)
	}
}

// whole notes a literal that is a key by where it stands.
func (u unmarked) whole(e ast.Expr) {
	if text, ok := literal(e); ok {
		u.note(e.Pos(), strings.TrimPrefix(text, "Bearer "))
	}
}

// byForm notes what looks like a key: by its prefix, or as the value of a key in YAML.
func (u unmarked) byForm(e ast.Expr) {
	text, _ := literal(e)
	for _, key := range prefixed.FindAllString(text, -1) {
		u.note(e.Pos(), key)
	}
	for _, m := range configured.FindAllStringSubmatch(text, -1) {
		u.note(e.Pos(), strings.TrimRight(m[1], " \n,}]\"'"))
	}
}

// inCall notes the argument of secret.New, and what follows the name of a header that
// carries keys.
func (u unmarked) inCall(call *ast.CallExpr) {
	if f, ok := call.Fun.(*ast.SelectorExpr); ok && len(call.Args) == 1 && f.Sel.Name == "New" {
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "secret" {
			u.whole(call.Args[0])
		}
	}
	for i, arg := range call.Args {
		if name, ok := literal(arg); ok && i+1 < len(call.Args) && sent.MatchString(name) {
			u.whole(call.Args[i+1])
		}
	}
}

// inField notes the value of ApiKey, and each string of a list called Keys.
func (u unmarked) inField(pair *ast.KeyValueExpr) {
	field, ok := pair.Key.(*ast.Ident)
	if !ok {
		return
	}
	if field.Name == "ApiKey" {
		u.whole(pair.Value)
	}
	list, ok := pair.Value.(*ast.CompositeLit)
	if !ok || field.Name != "Keys" {
		return
	}
	if t, ok := list.Type.(*ast.ArrayType); ok && fmt.Sprint(t.Elt) == "string" {
		for _, e := range list.Elts {
			u.whole(e)
		}
	}
}

// literal is the text of a string literal.
func literal(e ast.Expr) (text string, ok bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, _ = strconv.Unquote(l.Value)
	return text, true
}

func TestKeysWithoutTheMarkAreFound(t *testing.T) {
	for source, want := range map[string]string{
		`"sk-one"`: "sk-one", `"a b sk-ant-api03-x, c"`: "sk-ant-api03-x", `"AIzaSy0"`: "AIzaSy0", `"gsk_1"`: "gsk_1",
		"`\n- {id: k, key: secret-1, rpm_limit: 5}`": "secret-1", `"key: '1234'"`: "1234", `"  - key: v"`: "v", `"api_key: x"`: "x",
		`secret.New("x")`: "x", `T{ApiKey: "x"}`: "x", `T{Keys: []string{"x", "cnry7f3a"}}`: "x", `f("x-api-key", "x")`: "x", `f("a", "X-Api-Key", "x", "b")`: "x",
		`"sk-cnry7f3a-x"`: "", `"sk-"`: "", `"task-force"`: "", `"key: ${NAME}"`: "", `"key: x-${NAME}"`: "", `"{\"key\": \"its id\"}"`: "", `"an error: key: is empty"`: "", `"key: %s"`: "", `"key: "+x`: "", `"monkey: x"`: "", `"key: [secret]"`: "",
		`T{Keys: []T{"x"}}`: "", `secret.New(x)`: "", `f("x-api-key", x)`: "", `errors.New("x")`: "", `"key_file: x"`: "",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x_test.go", "package x\nvar _ = "+source, 0)
		require.NoError(t, err, source)
		var all []string
		for keys := range maps.Values(keysIn(file)) {
			all = append(all, keys...)
		}
		assert.Equal(t, want, strings.Join(all, " "), source)
	}
}

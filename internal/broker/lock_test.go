package broker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An owner's locked is used by look alone, which takes the lock, and by newOwner before
// anybody else has the owner. Methods of locked and of what it contains neither take a lock
// nor wait.
func TestOnlyLookReachesWhatTheLockProtects(t *testing.T) {
	inside := map[string]bool{"locked": true, "ownership": true, "saves": true, "trouble": true}
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	uses := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if n.Sel.Name == "locked" {
						uses[f.Name.Name] = true
					}
					if n.Sel.Name == "Lock" || n.Sel.Name == "Sleep" {
						assert.False(t, inside[receiver(f)], "%s.%s", receiver(f), f.Name.Name)
					}
				case *ast.SelectStmt:
					for _, c := range n.Body.List { // with a default case, it does not wait
						if c.(*ast.CommClause).Comm == nil {
							return true
						}
					}
					assert.False(t, inside[receiver(f)], "%s.%s waits", receiver(f), f.Name.Name)
				}
				return true
			})
		}
	}
	assert.Equal(t, map[string]bool{"newOwner": true, "look": true}, uses)
}

// receiver is the type of which a function is a method, or empty.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	x := f.Recv.List[0].Type
	if p, ok := x.(*ast.StarExpr); ok {
		x = p.X
	}
	name, _ := x.(*ast.Ident)
	if name == nil {
		return ""
	}
	return name.Name
}

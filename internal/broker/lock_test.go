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

// inside are the types whose methods are called with the lock held.
var inside = map[string]bool{"locked": true, "ownership": true, "saves": true, "trouble": true}

// An owner's locked is used by look alone, which takes the lock, and by newOwner before
// anybody else has the owner. Methods of locked and of what it contains neither take a lock
// nor wait, nor do they call the store.
func TestOnlyLookReachesWhatTheLockProtects(t *testing.T) {
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
			if usesLocked(f) {
				uses[f.Name.Name] = true
			}
			if inside[receiver(f)] {
				assert.Empty(t, waits(f), "%s.%s", receiver(f), f.Name.Name)
			}
		}
	}
	assert.Equal(t, map[string]bool{"newOwner": true, "look": true}, uses)
}

// The check sees each way of waiting.
func TestWaitingIsSeen(t *testing.T) {
	for body, want := range map[string][]string{
		`l.mu.Lock()`:                                {"Lock"},
		`time.Sleep(d)`:                              {"Sleep"},
		`l.all.Wait()`:                               {"Wait"},
		`l.store.Renew(ctx, name, epoch)`:            {"store"},
		`l.keeper.save(ctx, change)`:                 {"keeper"},
		`<-l.heard`:                                  {"receive"},
		`x := <-l.heard; _ = x`:                      {"receive"},
		`select { case <-c: case d <- 1: }`:          {"select"},
		`select { case <-c: default: }`:              nil,
		`select { case d <- 1: default: <-c }`:       {"receive"},
		`select { case <-c: <-c; default: }`:         {"receive"},
		`l.engine.Wait(now, ask)`:                    nil,
		`f := func() { l.mu.Lock() }; f()`:           {"Lock"},
		`go func() { <-c }()`:                        {"receive"},
		`c.done <- answer{}; l.timer.Reset(d)`:       nil, // of capacity 1
		`l.timer.Stop(); close(l.heard)`:             nil,
		`select { default: time.Sleep(d) }`:          {"Sleep"},
		`select { }`:                                 {"select"},
		`select { case x, ok := <-c: _, _ = x, ok }`: {"select"},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc (l *locked) f() {"+body+"}", 0)
		require.NoError(t, err, body)
		assert.Equal(t, want, waits(file.Decls[0].(*ast.FuncDecl)), body)
	}
}

func usesLocked(f *ast.FuncDecl) (uses bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		uses = uses || ok && s.Sel.Name == "locked"
		return true
	})
	return uses
}

// waits lists how a function waits, or may: it takes a lock, sleeps, waits for others, receives,
// or uses the store. A send does not count: the channels that are sent to have room.
func waits(f *ast.FuncDecl) (how []string) {
	ready := map[ast.Node]bool{} // receives of a select with a default case
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			switch n.Sel.Name {
			case "Lock", "RLock", "Sleep", "store", "keeper":
				how = append(how, n.Sel.Name)
			case "Wait":
				if x, ok := n.X.(*ast.SelectorExpr); !ok || x.Sel.Name != "engine" { // which puts somebody in line
					how = append(how, n.Sel.Name)
				}
			}
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && !ready[n] {
				how = append(how, "receive")
			}
		case *ast.SelectStmt:
			hasDefault := false
			for _, c := range n.Body.List {
				hasDefault = hasDefault || c.(*ast.CommClause).Comm == nil
			}
			if !hasDefault {
				how = append(how, "select")
			}
			for _, c := range n.Body.List {
				if comm := c.(*ast.CommClause).Comm; comm != nil {
					ready[received(comm)] = true
				}
			}
		}
		return true
	})
	return how
}

// received is the expression of a case of a select that receives, or nil.
func received(comm ast.Stmt) ast.Node {
	var x ast.Expr
	switch comm := comm.(type) {
	case *ast.ExprStmt:
		x = comm.X
	case *ast.AssignStmt:
		x = comm.Rhs[0]
	}
	return x
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

//go:build long

// Package mutants proves that the tests which judge the engine are able to judge:
// with each planted bug they must fail, and for the right reason.
package mutants_test

import (
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../../.."

// Always the same cases, so that a bug caught today is caught tomorrow.
var flags = []string{"-rapid.checks=20000", "-rapid.seed=1", "-rapid.nofailfile", "-rapid.shrinktime=1ms"}

var (
	refusal = regexp.MustCompile(`the provider refused \d+|\d+ calls at once|refunded more than was there`)
	after   = regexp.MustCompile(`failed after (\d+) tests`)
)

// Two at a time: each compiles.
var slots = make(chan struct{}, 2)

func TestPlantedBugsAreCaught(t *testing.T) {
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			out, err := judge(t, p.home(), p.test, "-overlay="+overlay(t, p), "-gcflags=-N -l") // which compiles faster
			require.NotContains(t, out, "[build failed]", "the planted code does not compile")
			require.Error(t, err, "not caught: %s (%s)", p.name, p.rule)
			reason, checks := refusal, "1"
			if p.says != "" {
				reason = regexp.MustCompile(regexp.QuoteMeta(p.says))
			}
			require.Regexp(t, reason, out, "it failed for another reason")
			if m := after.FindStringSubmatch(out); m != nil {
				checks = m[1]
			}
			t.Logf("%-34s caught after %5s tests: %s", p.name, checks, p.rule)
		})
	}
}

// Without a bug the same cases pass, or being caught would mean nothing.
func TestWithoutBugsNothingIsCaught(t *testing.T) {
	tests := map[string]string{}
	for _, p := range plants {
		tests[p.test] = p.home()
	}
	for test, pkg := range tests {
		t.Run(test, func(t *testing.T) {
			t.Parallel()
			out, err := judge(t, pkg, test)
			require.NoError(t, err, out)
			require.NotContains(t, out, "no tests to run")
		})
	}
}

// home is the package of the file and its test.
func (p *plant) home() string { return cmp.Or(p.pkg, "pool") }

// judge runs one test of a package.
func judge(t *testing.T, pkg, test string, build ...string) (output string, err error) {
	slots <- struct{}{}
	defer func() { <-slots }()
	args := append([]string{"test", "-count=1", "-timeout=0", "-vet=off", "-ldflags=-s -w", "-run=^" + test + "$"}, build...) // compiling is what takes long
	args = append(args, "./"+pkg)
	if strings.HasPrefix(pkg, "pool") { // elsewhere no property is to judge
		args = append(args, flags...)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, t.Context().Err())
	return string(out), err
}

// overlay writes the file with the bug in it, and what tells go test to compile
// it in the place of the real one.
func overlay(t *testing.T, p plant) string {
	path, err := filepath.Abs(filepath.Join(root, p.home(), p.file))
	require.NoError(t, err)
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), p.old), "%s must hold this once:\n%s", p.file, p.old)

	dir := t.TempDir()
	planted := filepath.Join(dir, filepath.Base(p.file))
	require.NoError(t, os.WriteFile(planted, []byte(strings.Replace(string(source), p.old, p.new, 1)), 0o600))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: planted}})
	require.NoError(t, err)
	name := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(name, list, 0o600))
	return name
}

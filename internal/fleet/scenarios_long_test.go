//go:build long

package fleet

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The figures that the scenarios of this repository state hold.
func TestScenariosShowWhatTheyExpect(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "keybroker") // without the race detector, which takes ten times as long
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/keybroker")
	build.Dir = filepath.Join("..", "..")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.CommandContext(t.Context(), binary, "simulate", "--strategy", "broker").CombinedOutput()
	assert.NoError(t, err, string(out))
	assert.Contains(t, string(out), "anthropic-saturated")
}

package sdktest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// TestNode runs the client in node/, which has nothing but the proto files.
func TestNode(t *testing.T) {
	dir := installed(t)
	t.Run("plain call", func(t *testing.T) {
		w := begin(t, inNode, setup{})
		out, err := node(t, w, dir)
		require.NoError(t, err, "%s", out)
		var line struct {
			Key    string
			Status int
			Usage  struct{ InputTokens, OutputTokens int64 }
			Text   string
		}
		require.NoError(t, json.Unmarshal(out, &line), "%s", out)
		assert.Equal(t, "first", line.Key)
		assert.Equal(t, 200, line.Status)
		c := w.classes()["first"]
		assert.Equal(t, c.InputTokens, line.Usage.InputTokens)
		assert.Equal(t, c.OutputTokens, line.Usage.OutputTokens)
		assert.Len(t, strings.Fields(line.Text), int(c.OutputTokens))
		w.settled(1)
		w.charged()
	})
	t.Run("revoked", func(t *testing.T) {
		w := begin(t, inNode, setup{})
		w.provider.Revoke(firstKey)
		out, err := node(t, w, dir)
		require.NoError(t, err, "%s", out)
		assert.Contains(t, string(out), `"status":401`)
		w.settled(1)
		assert.NotEqual(t, keybrokerv1.Health_HEALTH_HEALTHY, w.pool().GetKeys()[0].GetHealth(), "the broker has been told")
	})
}

var inNode = &sdk{name: "node", provider: "anthropic", model: "claude-haiku-4-5"}

// node runs the client and gives what it prints.
func node(t *testing.T, w *world, dir string) ([]byte, error) {
	protos, err := filepath.Abs("../proto")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "node", "client.mjs", w.target, "pool", w.sdk.model)
	var out, complaints bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaints
	cmd.Env = append(os.Environ(), "KEYBROKER_PROTO="+protos)
	err = cmd.Run()
	w.show(out.Bytes(), complaints.Bytes())
	assert.Empty(t, complaints.String())
	return out.Bytes(), err
}

// installed is a copy of node/ with what it needs.
func installed(t *testing.T) string {
	version, err := exec.Command("node", "--version").Output()
	require.NoError(t, err, "this test needs Node 18 or later and npm; on Debian: apt-get install nodejs npm")
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	n, err := strconv.Atoi(major)
	require.NoError(t, err, "%s", version)
	require.GreaterOrEqual(t, n, 18, "this test needs Node 18 or later; this is %s", version)
	_, err = exec.LookPath("npm")
	require.NoError(t, err, "this test needs npm, which comes with Node; on Debian: apt-get install npm")

	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "client.mjs"} {
		text, err := os.ReadFile(filepath.Join("node", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

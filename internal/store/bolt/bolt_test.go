package bolt

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/testing/storetest"
)

const patience = time.Minute

func start(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") }

func claim(t testing.TB, s *Store, name string) uint64 {
	t.Helper()
	epoch, err := s.Claim(context.Background(), name)
	require.NoError(t, err)
	return epoch
}

func load(t testing.TB, s *Store, name string) string {
	t.Helper()
	record, err := storetest.Get(context.Background(), s, name)
	require.NoError(t, err)
	return string(record)
}

// inChild runs the test again in a child process, whose resource limits and memory may be
// spoiled. In the parent, it returns child = false after the child has passed. prepare makes
// the path, in the parent.
func inChild(t *testing.T, prepare func() string) (path string, child bool) {
	const env = "KEYBROKER_TEST_CHILD"
	if path, child = os.LookupEnv(env); child {
		return path, true
	}
	path = prepare()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), env+"="+path, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return path, false
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) broker.Store { return start(t, file(t)) })
}

func TestDurable(t *testing.T) {
	storetest.RunDurable(t, func(t *testing.T, dir string) storetest.Durable {
		return start(t, filepath.Join(dir, "state.db"))
	})
}

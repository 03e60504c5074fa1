package killtest

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fill makes every write to a file fail for a child, as on a full disk; or none.
func (c *child) fill(t *testing.T, full bool) {
	limit := syscall.Rlimit{Cur: ^uint64(0), Max: ^uint64(0)}
	if full {
		limit.Cur = 0
	}
	_, _, errno := syscall.Syscall6(syscall.SYS_PRLIMIT64, uintptr(c.cmd.Process.Pid), syscall.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	require.Zero(t, errno)
}

// TestFullDisk has a broker grant no more than it has written down, and go on by
// itself when it can write again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	c, config, address, _ := alone(t)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	require.Contains(t, string(text), "\naudit: {")
	text = bytes.Replace(text, []byte("\naudit: {"), []byte("\naudit: {fail_open: true, "), 1) // it is about the store
	require.NoError(t, os.WriteFile(config, text, 0o600))
	b := serving(t, config, address)
	c.take(b, daily, 100)
	b.fill(t, true)
	n, err := c.untilRefused(b, daily)
	assert.Equal(t, codes.Unavailable, status.Code(err), err)
	assert.ErrorContains(t, err, "the store cannot be reached")
	assert.LessOrEqual(t, n, 10, "what was written ahead, and what was being")
	c.take(b, minute, 3) // which need not be written down
	assert.Contains(t, b.log.String(), "the disk has space", "it says what to do")

	b.fill(t, false)
	c.take(b, daily, 100)
	b.fill(t, true)
	_, err = c.untilRefused(b, daily)
	assert.Equal(t, codes.Unavailable, status.Code(err), err)
	b.end(syscall.SIGKILL)

	b = serving(t, config, address)
	drain(t, c, b)
	c.check(calm)
	left := calm[0].amount - int64(len(c.list.leases)-3)
	assert.LessOrEqual(t, left, int64(5+10), "lost in one kill, and with refused asks")
}

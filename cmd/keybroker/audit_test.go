package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/audit"
)

// auditLog is two leases of one key, one of another, and two who were turned away.
func auditLog(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.Open(path)
	require.NoError(t, err)
	at := func(minute int) time.Time { return time.Date(2026, 1, 31, 8, minute, 0, 0, time.UTC) }
	lease := func(id, key, holder string, granted, ended int) {
		e := audit.Entry{
			Time: at(granted), Decision: audit.Granted, Method: "AcquireKey", Holder: holder, Peer: "10.0.0.1:4000",
			Pool: "anthropic", Key: key, Lease: audit.Fingerprint(id), Requests: 1, Expires: at(granted + 10),
		}
		require.NoError(t, l.Write(&e))
		if ended > 0 {
			e.Time, e.Decision, e.Expires = at(ended), audit.Ended, time.Time{}
			require.NoError(t, l.Write(&e))
		}
	}
	lease("1", "research-1", "svc-a", 1, 2)
	lease("2", "research-1", "svc-b", 3, 0)
	lease("3", "research-2", "svc-b", 5, 6)
	for _, reason := range []string{"NO_POLICY", "NO_POLICY", "\x1b[2J"} {
		require.NoError(t, l.Note(&audit.Entry{Time: at(7), Decision: audit.Denied, Holder: "mallory", Peer: "10.0.0.9:1", Reason: reason}))
	}
	require.NoError(t, l.Close())
	return path
}

func TestAudit(t *testing.T) {
	log := auditLog(t)
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string // all of stdout; a part of stderr, or nothing at all
	}{
		{"--key research-1 --pool anthropic --until 2026-01-31T08:05:00Z " + log, exitOK, `
POOL       KEY         HOLDER  LEASES  FIRST                 LAST                   PEERS
anthropic  research-1  svc-a   1       2026-01-31T08:01:00Z  2026-01-31T08:02:00Z   10.0.0.1
anthropic  research-1  svc-b   1       2026-01-31T08:03:00Z  2026-01-31T08:13:00Z*  10.0.0.1
* The log has no end for 1 of the leases; this is when the ttl ends, unless it was renewed.
The log given begins at 2026-01-31T08:01:00Z.
`, ""},
		{"--lease 1 --leases --since 2026-01-31T09:01:30+01:00 --until 2026-01-31T08:05:00Z " + log, exitOK, `
LEASE                     POOL       KEY         HOLDER  GRANTED               ENDED                 PEER
6b86b273ff34fce19d6b804e  anthropic  research-1  svc-a   2026-01-31T08:01:00Z  2026-01-31T08:02:00Z  10.0.0.1:4000
`, ""},
		{"--key research-2 --holder svc-a --since 2026-01-31T08:02:00Z " + log, exitOK, `
Nobody held key research-2 as svc-a from 2026-01-31T08:02:00Z, as far as the log goes.
`, ""},
		{"--key research-1 --pool openai --since 2026-01-31T08:06:00Z --until 2026-02-01T00:00:00Z " + log, exitOK, `
Nobody held key research-1 of pool openai from 2026-01-31T08:06:00Z until 2026-02-01T00:00:00Z, as far as the log goes.
Denied: 2 × mallory from 10.0.0.9: NO_POLICY
Denied: 1 × mallory from 10.0.0.9: "\x1b[2J"
`, ""},
		{"--since 1h " + os.DevNull, exitOK, "\nNobody held a key from", ""},
		{"--since 2026-01-31T08:20:00Z " + log + " nowhere.jsonl", exitFailed, "\nNobody held", "not complete:\nopen nowhere.jsonl"},
		{"", exitUsage, "", "no audit log: give its file"},
		{"--since yesterday " + log, exitUsage, "", "neither a duration, as 2h, nor a time"},
		{"--since -2h " + log, exitUsage, "", "neither a duration"},
		{"--since 1h --until 2h " + log, exitUsage, "", "--since must be before --until"},
		{"-o xml " + log, exitUsage, "", `"xml" is neither`},
		{log + " --key research-1", exitUsage, "", "--key: flags stand before the files"},
		{"--brew " + log, exitUsage, "", "see keybroker audit --help"},
	} {
		t.Run(c.args, func(t *testing.T) {
			env, stdout, stderr := around(nil)
			code := run(t.Context(), env, append([]string{"audit"}, strings.Fields(c.args)...))
			assert.Equal(t, c.code, code)
			if want := strings.TrimPrefix(c.stdout, "\n"); strings.HasSuffix(want, "\n") || want == "" {
				assert.Equal(t, want, stdout.String())
			} else {
				assert.Contains(t, stdout.String(), want)
			}
			if c.stderr == "" {
				assert.Empty(t, stderr.String())
			}
			assert.Contains(t, stderr.String(), c.stderr)
		})
	}
}

func TestAuditHelp(t *testing.T) {
	env, stdout, _ := around(nil)
	assert.Equal(t, exitOK, run(t.Context(), env, []string{"audit", "--help"}))
	assert.Contains(t, stdout.String(), "keybroker audit --pool anthropic --key research-1 --since 2h")
	assert.Contains(t, stdout.String(), "-since time")
}

func TestAuditJSON(t *testing.T) {
	env, stdout, stderr := around(map[string]string{"KEYBROKER_O": "json"})
	args := []string{"audit", "--key", "research-1", "--holder", "svc-b", "--leases", "--until", "2026-01-31T08:05:00Z", auditLog(t)}
	assert.Equal(t, exitOK, run(t.Context(), env, args))
	assert.Empty(t, stderr.String())
	assert.JSONEq(t, `{
		"holdings": [{
			"pool": "anthropic", "key": "research-1", "holder": "svc-b", "leases": 1, "open": 1,
			"first": "2026-01-31T08:03:00Z", "last": "2026-01-31T08:13:00Z", "peers": ["10.0.0.1"]
		}],
		"leases": [{
			"lease": "d4735e3a265e16eee03f5971", "pool": "anthropic", "key": "research-1", "holder": "svc-b",
			"peer": "10.0.0.1:4000", "granted": "2026-01-31T08:03:00Z", "expires": "2026-01-31T08:13:00Z"
		}],
		"denials": [], "omitted": 0, "unreadable": 0,
		"begins": "2026-01-31T08:01:00Z", "ends": "2026-01-31T08:07:00Z"
	}`, stdout.String())

	env, stdout, _ = around(nil)
	assert.Equal(t, exitOK, run(t.Context(), env, []string{"audit", "-o", "json", os.DevNull}))
	assert.JSONEq(t, `{"holdings": [], "denials": [], "omitted": 0, "unreadable": 0}`, stdout.String())
}

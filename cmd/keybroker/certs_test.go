package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestCertsTellsPeopleWhatToDo(t *testing.T) {
	t.Chdir(t.TempDir())
	env, stdout, stderr := around(nil)
	before := time.Now()
	code := run(t.Context(), env, strings.Fields("certs --host broker.internal,127.0.0.1 --client spiffe://example.org/invoices --client reports.internal"))
	after := time.Now()
	require.Equal(t, exitOK, code, stderr)
	assert.Empty(t, stderr.String())
	in := func(days int) string { // a pattern, since a day may end meanwhile
		return "(" + before.AddDate(0, 0, days).UTC().Format(time.DateOnly) + "|" + after.AddDate(0, 0, days).UTC().Format(time.DateOnly) + ")"
	}
	table, rest, _ := strings.Cut(stdout.String(), "\n\n")
	lines := strings.Split(table, "\n")
	require.Len(t, lines, 5)
	for i, want := range []string{
		"CERTIFICATE KEY STATE FOR VALID UNTIL",
		"certs/ca.crt certs/ca.key created keybroker development CA " + in(365),
		"certs/server.crt certs/server.key created broker.internal,127.0.0.1 " + in(90),
		"certs/invoices.crt certs/invoices.key created spiffe://example.org/invoices",
		"certs/reports.internal.crt certs/reports.internal.key created reports.internal",
	} {
		assert.Regexp(t, want, strings.Join(strings.Fields(lines[i]), " "))
	}
	assert.Equal(t, `The broker's configuration:

server:
  tls:
    cert_file: certs/server.crt
    key_file: certs/server.key
    client_ca_file: certs/ca.crt

A client:

grpcurl -cacert certs/ca.crt -cert certs/invoices.crt -key certs/invoices.key 127.0.0.1:7070 keybroker.v1.AdminService/ListPools
`, rest)
	_, err := certs.Open(certs.Files{Cert: "certs/server.crt", Key: "certs/server.key", CA: "certs/ca.crt"})
	require.NoError(t, err)
}

func TestCertsForMachines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	env, stdout, stderr := around(map[string]string{"KEYBROKER_DIR": dir, "KEYBROKER_CLIENT": "a.internal, b.internal", "KEYBROKER_O": "json"})
	require.Equal(t, exitOK, run(t.Context(), env, []string{"certs"}), stderr)
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &list))
	require.Len(t, list, 4)
	for i, kind := range []string{"ca", "server", "client", "client"} {
		assert.Equal(t, kind, list[i]["kind"])
		assert.Equal(t, "created", list[i]["state"])
		assert.NotEmpty(t, list[i]["identities"])
		for _, name := range []string{"cert_file", "key_file"} {
			assert.FileExists(t, list[i][name].(string))
		}
		_, err := time.Parse(time.RFC3339, list[i]["not_after"].(string))
		require.NoError(t, err)
		assert.Len(t, list[i], 6)
	}
	assert.Equal(t, []any{"b.internal"}, list[3]["identities"])
}

func TestCertsWithDirectoriesOfAnyName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Jane's certs: a #1")
	env, stdout, _ := around(nil)
	require.Equal(t, exitOK, run(t.Context(), env, []string{"certs", "--dir", dir, "--host", "broker.internal", "--client", "a.internal"}))
	_, rest, _ := strings.Cut(stdout.String(), "configuration:\n\n")
	snippet, call, _ := strings.Cut(rest, "\nA client:\n\n")
	var cfg map[string]map[string]map[string]string
	require.NoError(t, yaml.Unmarshal([]byte(snippet), &cfg))
	assert.Equal(t, filepath.Join(dir, "server.key"), cfg["server"]["tls"]["key_file"])
	assert.Contains(t, call, `Jane'\''s certs: a #1/a.internal.crt' -key '`)
	assert.Contains(t, call, " broker.internal:7070 ")
}

func TestCertsCommandLine(t *testing.T) {
	foreign := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "server.key"), []byte(canary.Key("foreign")), 0o600))
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"help", []string{"--help"}, exitOK, "It is for development", ""},
		{"no client yet", nil, exitOK, "name some with --client", ""},
		{"an address as client", []string{"--client", "10.0.0.1"}, exitUsage, "", "not an address"},
		{"a wildcard", []string{"--host", "*.internal"}, exitUsage, "", "no wildcards"},
		{"an empty name", []string{"--host", "a,,b"}, exitUsage, "", "an empty name"},
		{"clients of the same name", []string{"--client", "a,spiffe://x/a"}, exitUsage, "", "use another directory"},
		{"an unknown output", []string{"-o", "yaml"}, exitUsage, "", `"yaml" is neither`},
		{"no directory", []string{"--dir", ""}, exitUsage, "", "--dir"},
		{"an argument", []string{"now"}, exitUsage, "", `unexpected argument "now"`},
		{"files of others", []string{"--dir", foreign}, exitFailed, "", "left as it is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			env, stdout, stderr := around(nil)
			assert.Equal(t, c.code, run(t.Context(), env, append([]string{"certs"}, c.args...)))
			for _, x := range []struct{ want, got string }{{c.stdout, stdout.String()}, {c.stderr, stderr.String()}} {
				if x.want == "" {
					assert.Empty(t, x.got)
				}
				assert.Contains(t, x.got, x.want)
				assert.NotContains(t, x.got, canary.Key("foreign"))
			}
			if c.code == exitUsage {
				assert.NoDirExists(t, "certs")
			}
		})
	}
}

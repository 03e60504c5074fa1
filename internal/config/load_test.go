package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const example = "../../config/example.yaml"

// known are the options of most tests: two provider types, and an environment of their own.
func known(env map[string]string) Options {
	return Options{
		Plaintext: true,
		Types:     map[string]string{"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"},
		Getenv:    func(name string) (string, bool) { value, ok := env[name]; return value, ok },
	}
}

var exampleEnv = map[string]string{
	"ANTHROPIC_API_KEY_PRIMARY":   "sk-ant-cnry7f3a-1",
	"ANTHROPIC_API_KEY_SECONDARY": "sk-ant-cnry7f3a-2",
	"ANTHROPIC_API_KEY_BACKUP":    "sk-ant-cnry7f3a-3",
	"OPENAI_API_KEY":              "sk-cnry7f3a-4",
}

func TestLoadExample(t *testing.T) {
	options := known(exampleEnv)
	options.Plaintext = false // it says so itself
	c, err := Load(example, options)
	require.NoError(t, err)

	assert.Equal(t, ServerConfig{
		Listen: "127.0.0.1:7070", DrainTimeout: 10 * time.Second, Plaintext: true,
		MaxConnections: DefaultMaxConnections, MaxUnproven: DefaultMaxUnproven,
	}, c.Server)
	assert.Equal(t, LeastLoaded, c.Pooling.Strategy)
	require.Len(t, c.Providers, 2)

	pool := c.Providers[0]
	assert.Equal(t, "anthropic", pool.Name)
	assert.Equal(t, "anthropic", pool.Type)
	assert.Equal(t, "https://api.anthropic.com", pool.BaseURL)
	assert.Len(t, pool.Models, 4)
	assert.True(t, pool.IsEnabled())
	assert.True(t, pool.IsPoolingEnabled())
	assert.Equal(t, LeastLoaded, pool.GetEffectiveStrategy(Random))
	assert.Equal(t, DefaultLease(), pool.Lease)
	require.Len(t, pool.Keys, 3)
	for i, want := range []struct {
		id, value string
		priority  int
		limits    Limits
	}{
		{"ANTHROPIC_API_KEY_PRIMARY", "sk-ant-cnry7f3a-1", PriorityHigh, Limits{RPMLimit: 4000, ITPMLimit: 400000, OTPMLimit: 80000}},
		{"ANTHROPIC_API_KEY_SECONDARY", "sk-ant-cnry7f3a-2", PriorityNormal, Limits{RPMLimit: 1000}},
		{"ANTHROPIC_API_KEY_BACKUP", "sk-ant-cnry7f3a-3", PriorityLow, Limits{}},
	} {
		k := pool.Keys[i]
		assert.Equal(t, want.id, k.ID)
		assert.Equal(t, want.value, k.Key.Reveal())
		assert.Equal(t, want.priority, k.GetPriority())
		assert.Equal(t, want.limits, k.Limits)
		assert.Equal(t, 1, k.Weight)
		require.NoError(t, k.Validate())
	}

	single := c.Providers[1]
	assert.Equal(t, "openai", single.Name)
	assert.Len(t, single.Keys, 1)
	assert.False(t, single.IsPoolingEnabled())
}

// What the example only suggests must work as well as what it shows.
func TestLoadExampleUncommented(t *testing.T) {
	data, err := os.ReadFile(example)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "secrets"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secrets", "anthropic-extra"), []byte("sk-ant-cnry7f3a-5\r\n"), 0o600))
	data = bytes.Replace(data, []byte("\n  plaintext: true\n"), nil, 1)
	data = bytes.Replace(data, []byte("sk-ant-6"), []byte("sk-ant-cnry7f3a-6"), 1) // the canary knows it so
	data = regexp.MustCompile(`(?m)^( *)#([^ \n])`).ReplaceAll(data, []byte("$1$2"))
	file := filepath.Join(dir, "keybroker.yaml")
	require.NoError(t, os.WriteFile(file, data, 0o600))

	c, err := Load(file, known(exampleEnv))
	require.NoError(t, err)
	pool := c.Providers[0]
	assert.Equal(t, "127.0.0.1:7072", c.Server.AdminListen)
	assert.Equal(t, &TLSConfig{filepath.Join(dir, "certs/server.crt"), filepath.Join(dir, "certs/server.key"), filepath.Join(dir, "certs/ca.crt")}, c.Server.TLS)
	assert.False(t, c.Server.Plaintext)
	assert.Equal(t, AuditConfig{Path: filepath.Join(dir, "audit.jsonl")}, c.Audit)
	require.Len(t, c.Access.Rules, 2)
	assert.Equal(t, RuleConfig{
		Identities: []string{"spiffe://example.org/ns/prod/**", "token:reports"}, Pools: []string{"anthropic"}, Verbs: []string{"acquire"},
		MaxLeases: DefaultMaxLeases, MaxWaiters: DefaultMaxWaiters,
	}, c.Access.Rules[0])
	assert.True(t, pool.FlatLimits)
	assert.Equal(t, []string{"openai"}, pool.Fallback)
	assert.Equal(t, DefaultLease(), pool.Lease)
	assert.Equal(t, []ClassConfig{{"opus", []string{"claude-opus-4-1", "claude-opus-4-5"}, Limits{ITPMLimit: 200000}}}, pool.ModelClasses)
	assert.Equal(t, []GroupConfig{{"org-1", Limits{RPMLimit: 4000, MaxConcurrency: 200}}}, pool.Groups)
	batch := PoolConfig{
		Name: "anthropic-batch", Groups: []string{"org-1"}, Models: []string{"claude-haiku-4-5"}, Pooling: PoolingConfig{"round_robin", pool.Pooling.Enabled},
		Fallback: []string{"openai"}, Lease: DefaultLease(),
	}
	batch.Lease.MaxWait = 5 * time.Minute
	assert.Equal(t, []PoolConfig{batch}, pool.Pools)
	require.Len(t, pool.Keys, 5)
	assert.Equal(t, "primary", pool.Keys[0].ID)
	assert.Equal(t, "org-1", pool.Keys[0].Group)
	assert.Equal(t, int64(50000000), pool.Keys[0].TPDLimit)
	assert.Equal(t, "anthropic-extra", pool.Keys[3].ID)
	assert.Equal(t, "sk-ant-cnry7f3a-5", pool.Keys[3].Key.Reveal())
	assert.Equal(t, "sk-ant-cnry7f3a-6", pool.Keys[4].Key.Reveal())
}

func TestLoadRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}

	_, err := Load(filepath.Join(dir, "none.yaml"), known(nil))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "none.yaml")

	_, err = Load(dir, known(nil))
	require.ErrorContains(t, err, "is a directory")

	big := write("big.yaml", bytes.Repeat([]byte("#\n"), 5<<20))
	_, err = Load(big, known(nil))
	require.EqualError(t, err, big+": the file is larger than 4 MiB; a configuration never is: check the path")

	// The largest that is read, and one byte more.
	full := append([]byte(one), bytes.Repeat([]byte("#"), 4<<20-len(one))...)
	_, err = Load(write("full.yaml", full), known(nil))
	require.NoError(t, err)
	_, err = Load(write("over.yaml", append(full, '#')), known(nil))
	require.ErrorContains(t, err, "larger than 4 MiB")
}

func TestEndlessFileIsNotReadToItsEnd(t *testing.T) {
	_, err := Load("/dev/zero", known(nil))
	require.ErrorContains(t, err, "larger than 4 MiB")
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	parse := func(file string) (*Config, error) {
		return Parse(filepath.Join(dir, "c.yaml"), []byte("providers: [{name: a, type: openai, keys: [{key_file: "+file+"}]}]"), known(nil))
	}
	write("plain", "sk-cnry7f3a-file")
	write("newline", "sk-cnry7f3a-file\n")
	write("crlf", "sk-cnry7f3a-file\r\n")
	for _, file := range []string{"plain", "newline", "./crlf", filepath.Join(dir, "plain")} {
		c, err := parse(file)
		require.NoError(t, err, file)
		assert.Equal(t, "sk-cnry7f3a-file", c.Providers[0].Keys[0].Key.Reveal(), file)
		assert.Equal(t, filepath.Base(file), c.Providers[0].Keys[0].ID)
		assert.Equal(t, file, c.Providers[0].Keys[0].KeyFile)
	}

	write("empty", "")
	write("blank", " \n\n")
	write("two", "sk-cnry7f3a-file\n\n")
	write("huge", strings.Repeat("x", maxKeyFileSize+1))
	for file, want := range map[string]string{
		"empty": "key_file is an empty file; write the key into it",
		"blank": "key_file is an empty file; write the key into it",
		"two":   "key begins or ends with white space; remove it",
		"huge":  "key_file cannot be read: the file is too large",
	} {
		_, err := parse(file)
		require.EqualError(t, err, fmt.Sprintf(`%s:1: provider "a": key %q: %s`, filepath.Join(dir, "c.yaml"), file, want))
	}
}

func TestDisabledProviderNeedsNoEnvironment(t *testing.T) {
	c, err := Parse("c.yaml", []byte(`
providers:
  - name: a
    type: openai
    enabled: false
    base_url: https://${NONE}/
    keys: [{key: "${NONE}"}, {key: "x-${NONE}"}, {key: cnry7f3a-literal}, {key_file: missing}]
  - {name: b, type: openai, enabled: false}
`), known(nil))
	require.NoError(t, err)
	off := c.Providers[0]
	assert.False(t, off.IsEnabled())
	assert.Equal(t, "https://api.openai.com/v1", off.BaseURL)
	assert.Equal(t, []string{"NONE", "key-2", "key-3", "missing"}, []string{off.Keys[0].ID, off.Keys[1].ID, off.Keys[2].ID, off.Keys[3].ID})
	for _, k := range off.Keys {
		assert.True(t, k.Key.IsZero())
	}

	// Its form is checked all the same.
	_, err = Parse("c.yaml", []byte("providers: [{name: a, type: openai, enabled: false, keys: [{key: '${'}, {id: k}, {key: cnry7f3a-x, weight: -1}]}]"), known(nil))
	require.EqualError(t, err, `c.yaml:1: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $
c.yaml:1: provider "a": key "k": key is empty; give a value, ${ENV_VAR}, key_file or key_exec
c.yaml:1: provider "a": key "key-3": weight is negative; use 1 or more`)
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "alpha", "B_2": "${A} $$ - x: [y]\nz: 1", "EMPTY": ""}
	for text, want := range map[string]string{
		"":            "",
		"plain":       "plain",
		"${A}":        "alpha",
		"x-${A}-${A}": "x-alpha-alpha",
		"$${A}":       "${A}",
		"$$${A}":      "$alpha",
		"$":           "$",
		"a$b$":        "a$b$",
		"$A":          "$A",
		"$$$$":        "$$",
		"${B_2}":      env["B_2"], // Neither expanded again nor read as YAML.
	} {
		got, err := expand(text, known(env).Getenv)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"${", "${}", "${A", "${ A}", "${1}", "${A-B}", "${${A}}", "x${A}${"} {
		_, err := expand(text, known(env).Getenv)
		require.ErrorContains(t, err, "malformed ${", text)
	}
	for _, text := range []string{"${NONE}", "${EMPTY}", "${A}${EMPTY}"} {
		_, err := expand(text, known(env).Getenv)
		require.ErrorIs(t, err, errUnset, text)
	}
}

func TestParseReadsTheEnvironmentByDefault(t *testing.T) {
	t.Setenv("KEYBROKER_TEST_KEY", "sk-cnry7f3a-env")
	t.Setenv("KEYBROKER_TEST_HOST", "localhost")
	c, err := Parse("c.yaml", []byte(`
server: {plaintext: true, listen: "${KEYBROKER_TEST_HOST}:1", admin_listen: "[::1]:1"}
providers:
  - name: a
    type: openai
    base_url: http://${KEYBROKER_TEST_HOST}:8080/v1
    keys:
      - key: ${KEYBROKER_TEST_KEY}
`), Options{Types: map[string]string{"openai": ""}})
	require.NoError(t, err)
	assert.Equal(t, "localhost:1", c.Server.Listen)
	assert.Equal(t, "http://localhost:8080/v1", c.Providers[0].BaseURL)
	assert.Equal(t, "sk-cnry7f3a-env", c.Providers[0].Keys[0].Key.Reveal())
}

// Two local servers with the same dummy key are two accounts, and not one.
func TestSameKeyElsewhereIsAnotherCredential(t *testing.T) {
	_, err := Parse("c.yaml", []byte(`
providers:
  - {name: a, type: openai, base_url: "http://localhost:1", keys: [{key: cnry7f3a-1234}]}
  - {name: b, type: openai, base_url: "http://localhost:2", keys: [{key: cnry7f3a-1234}], fallback: [c]}
  - {name: c, type: anthropic, keys: [{key: cnry7f3a-1234}], fallback: [b]}
`), known(nil))
	require.NoError(t, err)
}

// However its address is written, an account's key is one key.
func TestSameKeyUnderAnotherSpellingOfTheAddress(t *testing.T) {
	for _, address := range []string{"", "https://api.openai.com/v1", "https://API.openai.com/v1/", "HTTPS://api.openai.com/v1//"} {
		_, err := Parse("c.yaml", []byte(`
providers:
  - {name: a, type: openai, keys: [{id: x, key: sk-cnry7f3a-one}]}
  - {name: b, type: openai, base_url: "`+address+`", keys: [{id: y, key: sk-cnry7f3a-one}]}
`), known(nil))
		require.ErrorContains(t, err, `key "y"`, address)
	}
}

func TestTypeWithoutAnAddressNeedsOne(t *testing.T) {
	options := Options{Plaintext: true, Types: map[string]string{"local": ""}}
	const text = "providers:\n- name: a\n  type: local\n  keys: [{key: sk-cnry7f3a-one}]\n"
	_, err := Parse("c.yaml", []byte(text), options)
	require.EqualError(t, err, `c.yaml:2: provider "a": base_url is missing; type local has no address of its own`)
	_, err = Parse("c.yaml", []byte(text+"  base_url: http://localhost:1\n"), options)
	require.NoError(t, err)
}

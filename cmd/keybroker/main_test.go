package main

// The command line: what each verb prints where, and its exit code.

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// TestMain lets a test run the whole program as a child: see signal_test.go.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_KEYBROKER") != "" {
		main() // which exits
	}
	os.Exit(canary.Main(m, nil))
}

// screen is what the program has written; one that runs still may be read.
type screen struct {
	all  io.Writer // hears it as well; nil: nobody
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all != nil {
		_, _ = s.all.Write(p)
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// around makes an environment of the variables given, and nothing else.
func around(vars map[string]string) (env *environment, stdout, stderr *screen) {
	stdout, stderr = &screen{all: canary.Writer("stdout")}, &screen{all: canary.Writer("stderr")}
	return &environment{
		getenv: func(name string) (string, bool) { v, ok := vars[name]; return v, ok },
		stdout: stdout, stderr: stderr,
	}, stdout, stderr
}

// file writes a configuration and gives its path.
func file(t *testing.T, text string) string {
	path := filepath.Join(canary.Dir(t, "broker.yaml"), "broker.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// onProvider is a configuration with one slot that listens where it is told. It has no file
// for its state, since a disk that is slow for a few seconds changes the exit code.
func onProvider(listen string) string {
	return "server: {plaintext: true, listen: '" + listen + "', drain_timeout: 5s}\nstore: {type: memory}\naudit: {path: audit.jsonl}\n" +
		"providers: [{name: p, type: anthropic, flat_limits: true, lease: {max_wait: 10m}, keys: [{id: k, key: sk-cnry7f3a-file, rpm_limit: 1000, max_concurrency: 1}]}]\n"
}

// The log's line about the start names the pools that are served.
func TestPoolNames(t *testing.T) {
	for want, text := range map[string]string{
		"a, b": "{name: a, type: anthropic, keys: [{key: sk-cnry7f3a-names}], pools: [{name: b}]}, {name: c, type: anthropic, enabled: false, pools: [{name: d}]}",
		"":     "{name: a, type: anthropic, enabled: false}",
	} {
		cfg, err := config.Parse("c.yaml", []byte("server: {plaintext: true}\nproviders: ["+text+"]"), app.ConfigOptions())
		require.NoError(t, err)
		assert.Equal(t, want, poolNames(cfg))
	}
}

func TestCommandLine(t *testing.T) {
	wireless := file(t, "providers: [{name: p, type: anthropic, keys: [{key: sk-cnry7f3a-line}]}]")
	secured := file(t, "server: {tls: {cert_file: none.crt, key_file: none.key, client_ca_file: none.crt}}\nstore: {type: memory}\n"+
		"access: {rules: [{identities: ['dns:a'], pools: [p], verbs: [acquire]}]}\nproviders: [{name: p, type: anthropic, keys: [{key: sk-cnry7f3a-line}]}]")
	good, bad := file(t, onProvider("127.0.0.1:0")), file(t, "providers: [{name: p, type: pear, keys: [{key: sk-cnry7f3a-bad}]}]")
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string // parts of it; empty: nothing at all
	}{
		{"", exitUsage, "", "Commands:"},
		{"help", exitOK, "keybroker serve --sandbox", ""},
		{"--help", exitOK, "Exit codes: 0 done", ""},
		{"-h", exitOK, "Commands:", ""},
		{"serve --help", exitOK, "KEYBROKER_CONFIG", ""},
		{"check -h", exitOK, "-config file", ""},
		{"sandbox --help", exitOK, "-tokens-per-second", ""},
		{"demo --help", exitOK, "-services", ""},
		{"version --help", exitOK, "prints the version", ""},
		{"version", exitOK, "keybroker devel", ""},
		{"brew", exitUsage, "", `no command "brew"`},
		{"serve --brew", exitUsage, "", "see keybroker serve --help"},
		{"serve", exitUsage, "", "give --config FILE, or --sandbox"},
		{"serve now", exitUsage, "", `unexpected argument "now"`},
		{"serve --sandbox=perhaps", exitUsage, "", "perhaps"},
		{"serve --sandbox --log-level loud", exitUsage, "", `"loud" is none of`},
		{"serve --sandbox --log-format xml", exitUsage, "", `"xml" is neither`},
		{"serve --config " + good + " --listen 0.0.0.0:7070", exitUsage, "", "--listen: must be a loopback address"},
		{"serve --config " + good + " --listen nonsense", exitUsage, "", "--listen: must be host:port"},
		{"serve --config " + good + " --admin-listen 10.0.0.1:1", exitUsage, "", "--admin-listen: must be a loopback address"},
		{"token --name ci", exitOK, "access:", ""},
		{"token", exitUsage, "", "give --name NAME"},
		{"token --name a/b", exitUsage, "", "--name: must be"},
		{"token --name ci -o xml", exitUsage, "", `"xml" is neither`},
		{"check --config " + wireless, exitConfig, "", "there is no tls"},
		{"check --plaintext --config " + wireless, exitOK, "plaintext: true", ""},
		{"serve --config " + secured, exitConfig, "", "server.tls: "},
		{"serve --config " + bad, exitConfig, "", "unknown type"},
		{"serve --config nowhere.yaml", exitConfig, "", "nowhere.yaml"},
		{"sandbox --address 0.0.0.0:0", exitUsage, "", "--address: must be a loopback address"},
		{"sandbox --config " + bad, exitConfig, "", "unknown type"},
		{"check", exitUsage, "", "give --config FILE"},
		{"check --config " + good, exitOK, "max_concurrency: 1", ""},
		{"check --config " + good + " -o toml", exitUsage, "", `"toml" is neither`},
		{"check --config " + bad, exitConfig, "", "broker.yaml:1"},
		{"demo --services 0", exitUsage, "", "above zero"},
		{"demo --duration -1s", exitUsage, "", "above zero"},
		{"demo -o xml", exitUsage, "", `"xml" is neither`},
	} {
		t.Run(c.args, func(t *testing.T) {
			env, stdout, stderr := around(nil)
			assert.Equal(t, c.code, run(t.Context(), env, strings.Fields(c.args)))
			for _, x := range []struct{ want, got string }{{c.stdout, stdout.String()}, {c.stderr, stderr.String()}} {
				if x.want == "" {
					assert.Empty(t, x.got)
				}
				assert.Contains(t, x.got, x.want)
				assert.NotContains(t, x.got, "sk-")
			}
		})
	}
}

func TestFlagGoesBeforeEnvironmentBeforeFile(t *testing.T) {
	// Each place names another address that is taken, so that the error tells
	// which one was used.
	taken := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	inFile, inEnv, inFlag := taken(), taken(), taken()
	path := file(t, onProvider(inFile))
	for _, c := range []struct {
		name string
		vars map[string]string
		args []string
		want string
	}{
		{"file", nil, []string{"--config", path}, inFile},
		{"an empty variable is none", map[string]string{"KEYBROKER_LISTEN": ""}, []string{"--config", path}, inFile},
		{"environment", map[string]string{"KEYBROKER_LISTEN": inEnv}, []string{"--config", path}, inEnv},
		{"all from the environment", map[string]string{"KEYBROKER_LISTEN": inEnv, "KEYBROKER_CONFIG": path}, nil, inEnv},
		{"flag", map[string]string{"KEYBROKER_LISTEN": inEnv}, []string{"--config", path, "--listen", inFlag}, inFlag},
		{"admin flag", map[string]string{"KEYBROKER_ADMIN_LISTEN": inEnv}, []string{"--config", path, "--listen=127.0.0.1:0", "--admin-listen", inFlag}, inFlag},
		{"admin environment", map[string]string{"KEYBROKER_ADMIN_LISTEN": inEnv}, []string{"--config", path, "--listen=127.0.0.1:0"}, inEnv},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, _, stderr := around(c.vars)
			assert.Equal(t, exitFailed, run(t.Context(), env, append([]string{"serve"}, c.args...)))
			assert.Contains(t, stderr.String(), c.want)
		})
	}
	env, _, stderr := around(map[string]string{"KEYBROKER_SANDBOX": "perhaps"})
	assert.Equal(t, exitUsage, run(t.Context(), env, []string{"serve"}))
	assert.Contains(t, stderr.String(), "KEYBROKER_SANDBOX in the environment")
}

func TestCheckShowsWhatIsInForceWithoutTheKeys(t *testing.T) {
	const marker = "sk-" + canary.Mark + "-check-"
	vars := map[string]string{}
	for _, name := range []string{"ANTHROPIC_API_KEY_PRIMARY", "ANTHROPIC_API_KEY_SECONDARY", "ANTHROPIC_API_KEY_BACKUP", "OPENAI_API_KEY"} {
		vars[name] = marker + name
	}
	type shown struct {
		Providers []struct {
			Name    string
			BaseURL string `yaml:"base_url" json:"base_url"`
			Pooling struct {
				Strategy string
				Enabled  bool
			}
			Lease struct {
				MaxWait string `yaml:"max_wait" json:"max_wait"`
			}
			Keys []struct {
				ID, Key  string
				Priority int
				Weight   int
			}
		}
	}
	for format, parse := range map[string]func([]byte, any) error{"yaml": yaml.Unmarshal, "json": json.Unmarshal} {
		t.Run(format, func(t *testing.T) {
			env, stdout, stderr := around(vars)
			require.Equal(t, exitOK, run(t.Context(), env, []string{"check", "--config", "../../config/example.yaml", "-o", format}), stderr.String())
			assert.NotContains(t, stdout.String()+stderr.String(), marker)
			var got shown
			require.NoError(t, parse([]byte(stdout.String()), &got))
			require.Len(t, got.Providers, 2)
			a, o := got.Providers[0], got.Providers[1]
			assert.Equal(t, "https://api.anthropic.com", a.BaseURL)
			assert.Equal(t, "least_loaded", o.Pooling.Strategy)
			assert.Equal(t, []bool{true, false}, []bool{a.Pooling.Enabled, o.Pooling.Enabled})
			assert.Equal(t, "30s", a.Lease.MaxWait, "defaults are written out")
			require.Len(t, a.Keys, 3)
			for i, id := range []string{"ANTHROPIC_API_KEY_PRIMARY", "ANTHROPIC_API_KEY_SECONDARY", "ANTHROPIC_API_KEY_BACKUP"} {
				assert.Equal(t, id, a.Keys[i].ID)
				assert.Equal(t, "[secret]", a.Keys[i].Key)
				assert.Equal(t, 2-i, a.Keys[i].Priority)
				assert.Equal(t, 1, a.Keys[i].Weight)
			}
		})
	}
	env, stdout, stderr := around(nil)
	assert.Equal(t, exitConfig, run(t.Context(), env, []string{"check", "--config", "../../config/example.yaml"}))
	assert.Empty(t, stdout.String())
	assert.Contains(t, stderr.String(), "ANTHROPIC_API_KEY_PRIMARY", "a variable that is not set")
	assert.Contains(t, stderr.String(), "OPENAI_API_KEY", "all mistakes are listed")
}

func TestDemoShowsWhatTheFleetGot(t *testing.T) {
	env, stdout, stderr := around(nil)
	args := []string{"demo", "--services", "3", "--workers", "1", "--duration", "1100ms", "-o", "json"}
	require.Equal(t, exitOK, run(context.Background(), env, args), stderr.String())
	var got struct {
		Services int
		Pools    []struct {
			Requests    int
			RateLimited int `json:"rate_limited"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &got))
	assert.Equal(t, 3, got.Services)
	require.Len(t, got.Pools, 2)
	for _, p := range got.Pools {
		assert.Positive(t, p.Requests)
		assert.Zero(t, p.RateLimited)
	}
	assert.NotContains(t, stdout.String()+stderr.String(), "sandbox-anthropic", "the keys of the sandbox's configuration")
}

func TestTokenIsShownOnce(t *testing.T) {
	env, stdout, stderr := around(nil)
	require.Equal(t, exitOK, run(t.Context(), env, []string{"token", "--name", "ci", "-o", "json"}), stderr.String())
	var got struct{ Name, Identity, Token, SHA256 string }
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &got))
	assert.Equal(t, []string{"ci", "token:ci"}, []string{got.Name, got.Identity})
	assert.True(t, access.LooksLikeToken(got.Token))
	assert.Equal(t, access.HashToken(got.Token).String(), got.SHA256)
	text := stdout.String()
	require.Equal(t, exitOK, run(t.Context(), env, []string{"token", "--name", "ci"}))
	assert.NotContains(t, strings.TrimPrefix(stdout.String(), text), got.Token, "each is another")
}

func TestServeRefusesWhatWouldLogKeys(t *testing.T) {
	for name, value := range map[string]string{"GRPC_BINARY_LOG_FILTER": "*", "GODEBUG": "netdns=go,http2debug=2"} {
		env, _, stderr := around(map[string]string{name: value})
		assert.Equal(t, exitUsage, run(t.Context(), env, []string{"serve", "--sandbox"}))
		assert.Contains(t, stderr.String(), name)
	}
}

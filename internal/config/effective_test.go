package config

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

func TestEffective(t *testing.T) {
	c, err := Parse("c.yaml", []byte(`
pooling: {strategy: round_robin}
providers:
  - name: a
    type: openai
    keys: [{key: "${SET}", rpm_limit: 5}, {key: sk-cnry7f3a-two, priority: 0, weight: 3}]
    pools: [{name: c, groups: [SET]}]
  - {name: b, type: anthropic, enabled: false, pooling: {strategy: random}}
`), known(map[string]string{"SET": "sk-cnry7f3a-one"}))
	require.NoError(t, err)

	out, err := yaml.Marshal(c.Effective())
	require.NoError(t, err)
	assert.Equal(t, `server:
    listen: 127.0.0.1:7070
    admin_listen: ""
    metrics_listen: ""
    plaintext: true
    max_connections: 20000
    max_unproven_connections: 256
    drain_timeout: 10s
store:
    type: bolt
    path: keybroker.db
pooling:
    strategy: round_robin
providers:
    - name: a
      type: openai
      base_url: https://api.openai.com/v1
      enabled: true
      flat_limits: false
      pooling:
        strategy: round_robin
        enabled: true
      lease:
        start_within: 2s
        default_ttl: 2m0s
        max_ttl: 10m0s
        max_wait: 30s
      keys:
        - key: '[secret]'
          id: SET
          priority: 1
          weight: 1
          rpm_limit: 5
        - key: '[secret]'
          id: key-2
          priority: 0
          weight: 3
      pools:
        - name: c
          groups:
            - SET
          pooling:
            strategy: round_robin
            enabled: true
          lease:
            start_within: 2s
            default_ttl: 2m0s
            max_ttl: 10m0s
            max_wait: 30s
    - name: b
      type: anthropic
      base_url: https://api.anthropic.com
      enabled: false
      flat_limits: false
      pooling:
        strategy: random
        enabled: false
      lease:
        start_within: 2s
        default_ttl: 2m0s
        max_ttl: 10m0s
        max_wait: 30s
      keys: []
`, string(out))

	// JSON says the same.
	encoded, err := json.Marshal(c.Effective())
	require.NoError(t, err)
	var fromYAML, fromJSON any
	require.NoError(t, yaml.Unmarshal(out, &fromYAML))
	require.NoError(t, yaml.Unmarshal(encoded, &fromJSON))
	assert.Equal(t, fromYAML, fromJSON)

	// The configuration itself is left as it was.
	assert.Nil(t, c.Providers[0].Enabled)
	assert.Nil(t, c.Providers[0].Keys[0].Priority)
	assert.Empty(t, c.Providers[0].Pooling.Strategy)
}

func TestConfigPrintsNoKey(t *testing.T) {
	c, err := Parse("c.yaml", []byte("providers: [{name: a, type: openai, keys: [{key: "+pasted+"}]}]"), known(nil))
	require.NoError(t, err)
	require.Equal(t, pasted, c.Providers[0].Keys[0].Key.Reveal())
	for _, config := range []*Config{c, c.Effective()} {
		for _, x := range []any{config, *config, config.Providers, config.Providers[0].Keys, config.Providers[0].Keys[0]} {
			inYAML, err := yaml.Marshal(x)
			require.NoError(t, err)
			inJSON, err := json.Marshal(x)
			require.NoError(t, err)
			assert.NotContains(t, string(inYAML)+string(inJSON)+fmt.Sprintf("%v %+v %#v %s %q %x", x, x, x, x, x, x), pasted)
		}
	}
}

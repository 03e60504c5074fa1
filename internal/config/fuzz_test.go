package config

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// FuzzParse looks for input that panics, or that makes an error or a printed configuration repeat a key. The key is as long as real
// ones are, and stands in the environment as well as in the input.
func FuzzParse(f *testing.F) {
	marker := "sk-ant-api03-cnry7f3a23456789" + strings.Repeat("Canary0123456789", 5) // as in testdata
	data, err := os.ReadFile(example)
	require.NoError(f, err)
	f.Add(data)
	for _, seed := range []string{
		"", one, keyed, "a: &a [*a]", "- x", "---\n---\n",
		keyed + "        weight: " + marker,
		keyed + "        " + marker + ": 1",
		strings.Replace(keyed, "key: cnry7f3a-v", "key: "+marker, 1),
		strings.Replace(keyed, "key: cnry7f3a-v", "key_file: "+marker, 1),
		strings.Replace(keyed, "key: cnry7f3a-v", "key: ${SET}\n        priority: 7", 1),
		strings.Replace(keyed, "name: a", "name: "+marker, 1),
		one + "    base_url: https://" + marker + "@host",
		one + "    models: *" + marker,
		one + "    enabled: !!bool " + marker,
		one + "    pooling: {strategy: " + marker + "}\n    fallback: [" + marker + "]\n    groups: [" + marker + "]",
		"server: {listen: \"" + marker + ":1\", drain_timeout: " + marker + "}",
	} {
		f.Add([]byte(seed))
	}
	opts := known(map[string]string{"SET": marker})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("c.yaml", data, opts)
		if err != nil {
			require.Nil(t, c)
			require.NotContains(t, err.Error(), marker)
			for line := range strings.SplitSeq(err.Error(), "\n") {
				require.Regexp(t, `^c\.yaml:[1-9][0-9]*: `, line)
			}
			return
		}
		require.NotEmpty(t, c.Providers)
		for _, p := range c.Providers {
			for _, k := range p.Keys {
				require.True(t, !p.IsEnabled() || k.Validate() == nil)
			}
		}
		_, err = yaml.Marshal(c.Effective())
		require.NoError(t, err)
	})
}

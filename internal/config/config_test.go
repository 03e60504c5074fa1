package config

import (
	"testing"

	"github.com/keybroker/keybroker/internal/secret"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGetEffectiveTPM(t *testing.T) {
	for name, c := range map[string]struct {
		limits     Limits
		itpm, otpm int64
	}{
		"nothing":                 {Limits{}, 0, 0},
		"both":                    {Limits{ITPMLimit: 10, OTPMLimit: 5}, 10, 5},
		"both, and legacy":        {Limits{ITPMLimit: 10, OTPMLimit: 5, TPMLimit: 100}, 10, 5},
		"input only, and legacy":  {Limits{ITPMLimit: 10, TPMLimit: 100}, 10, 0},
		"output only, and legacy": {Limits{OTPMLimit: 5, TPMLimit: 100}, 0, 5},
		"legacy, even":            {Limits{TPMLimit: 100}, 50, 50},
		"legacy, odd":             {Limits{TPMLimit: 101}, 51, 50},
		"legacy, one":             {Limits{TPMLimit: 1}, 1, 0},
		"legacy, largest":         {Limits{TPMLimit: maxLimit + 1}, maxLimit/2 + 1, maxLimit / 2},
	} {
		itpm, otpm := c.limits.GetEffectiveTPM()
		assert.Equal(t, c.itpm, itpm, name)
		assert.Equal(t, c.otpm, otpm, name)
		itpm, otpm = KeyConfig{Limits: c.limits}.GetEffectiveTPM()
		assert.Equal(t, []int64{c.itpm, c.otpm}, []int64{itpm, otpm}, name)
	}
}

func TestKeyConfigValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*KeyConfig)
		want   string
	}{
		"minimal":         {func(*KeyConfig) {}, ""},
		"lowest priority": {func(k *KeyConfig) { k.Priority = new(0) }, ""},
		"top priority":    {func(k *KeyConfig) { k.Priority = new(2) }, ""},
		"highest limit":   {func(k *KeyConfig) { k.RPMLimit = 1e15 }, ""},
		"highest weight":  {func(k *KeyConfig) { k.Weight = 1_000_000 }, ""},
		"empty key":       {func(k *KeyConfig) { k.Key = secret.Value{} }, "key is empty; give a value, ${ENV_VAR}, key_file or key_exec"},
		"blank key":       {func(k *KeyConfig) { k.Key = secret.New(" \t") }, "key is empty; give a value, ${ENV_VAR}, key_file or key_exec"},
		"newline":         {func(k *KeyConfig) { k.Key = secret.New("sk\n") }, "key begins or ends with white space; remove it"},
		"priority below":  {func(k *KeyConfig) { k.Priority = new(-1) }, "priority is out of range; use 0 (low), 1 (normal) or 2 (high)"},
		"priority above":  {func(k *KeyConfig) { k.Priority = new(3) }, "priority is out of range; use 0 (low), 1 (normal) or 2 (high)"},
		"negative weight": {func(k *KeyConfig) { k.Weight = -1 }, "weight is negative; use 1 or more"},
		"huge weight":     {func(k *KeyConfig) { k.Weight = 1_000_001 }, "weight is above 1000000; weights only matter in proportion, so scale them down"},
		"negative limit":  {func(k *KeyConfig) { k.OTPMLimit = -1 }, "otpm_limit is negative; use 0, or leave it out, for no limit"},
		"huge limit":      {func(k *KeyConfig) { k.TPDLimit = 1e15 + 1 }, "tpd_limit is above 10^15; use 0, or leave it out, for no limit"},
		"several": {func(k *KeyConfig) { k.Key, k.Weight = secret.Value{}, -1 },
			"key is empty; give a value, ${ENV_VAR}, key_file or key_exec\nweight is negative; use 1 or more"},
	} {
		t.Run(name, func(t *testing.T) {
			k := KeyConfig{Key: secret.New("sk-cnry7f3a-x")}
			c.change(&k)
			if c.want == "" {
				require.NoError(t, k.Validate())
				return
			}
			require.EqualError(t, k.Validate(), c.want)
		})
	}
}

func TestKeyConfigDefaults(t *testing.T) {
	assert.Equal(t, PriorityNormal, KeyConfig{}.GetPriority())
	assert.Equal(t, PriorityLow, KeyConfig{Priority: new(0)}.GetPriority(), "an explicit 0 is not an unset one")
	assert.Equal(t, PriorityHigh, KeyConfig{Priority: new(2)}.GetPriority())
	assert.Equal(t, 1, KeyConfig{}.GetWeight())
	assert.Equal(t, 7, KeyConfig{Weight: 7}.GetWeight())
}

func TestGetEffectiveStrategy(t *testing.T) {
	unset, set := ProviderConfig{}, ProviderConfig{Pooling: PoolingConfig{Strategy: Weighted}}
	assert.Equal(t, LeastLoaded, unset.GetEffectiveStrategy(""))
	assert.Equal(t, Random, unset.GetEffectiveStrategy(Random))
	assert.Equal(t, Weighted, set.GetEffectiveStrategy(""))
	assert.Equal(t, Weighted, set.GetEffectiveStrategy(Random))
}

func TestIsPoolingEnabled(t *testing.T) {
	one, two := make([]KeyConfig, 1), make([]KeyConfig, 2)
	for name, c := range map[string]struct {
		provider ProviderConfig
		want     bool
	}{
		"no key":             {ProviderConfig{}, false},
		"one key":            {ProviderConfig{Keys: one}, false},
		"two keys":           {ProviderConfig{Keys: two}, true},
		"one key, told on":   {ProviderConfig{Keys: one, Pooling: PoolingConfig{Enabled: new(true)}}, true},
		"two keys, told off": {ProviderConfig{Keys: two, Pooling: PoolingConfig{Enabled: new(false)}}, false},
	} {
		assert.Equal(t, c.want, c.provider.IsPoolingEnabled(), name)
	}
}

func TestIsEnabled(t *testing.T) {
	assert.True(t, ProviderConfig{}.IsEnabled())
	assert.True(t, ProviderConfig{Enabled: new(true)}.IsEnabled())
	assert.False(t, ProviderConfig{Enabled: new(false)}.IsEnabled())
}

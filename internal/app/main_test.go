package app_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestMain(m *testing.M) { os.Exit(canary.Main(m, nil)) }

// simulated is the configuration of the sandbox, whose keys are searched for too.
func simulated(t *testing.T) *config.Config {
	cfg, err := config.Parse("sandbox.yaml", app.SandboxConfig, app.ConfigOptions())
	require.NoError(t, err)
	for _, p := range cfg.Providers {
		for _, k := range p.Keys {
			canary.Also(k.Key.Reveal())
		}
	}
	return cfg
}

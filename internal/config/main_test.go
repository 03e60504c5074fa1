package config

import (
	"os"
	"testing"

	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestMain(m *testing.M) { os.Exit(canary.Main(m, nil)) }

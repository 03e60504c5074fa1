package pool_test

import (
	"flag"
	"os"
	"testing"

	"github.com/keybroker/keybroker/internal/testing/long"
)

// Long tests run 6000 cases of each property, others 1000.
func TestMain(m *testing.M) {
	checks := "1000"
	if long.Enabled {
		checks = "6000"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

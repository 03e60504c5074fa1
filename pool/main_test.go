package pool_test

import (
	"flag"
	"os"
	"testing"

	"github.com/keybroker/keybroker/internal/testing/long"
)

// The rarest of the planted bugs shows after some 1300 cases, so the properties run
// several times as many in long tests. Quick ones run 1000, others each time.
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

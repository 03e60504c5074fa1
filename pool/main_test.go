package pool_test

import (
	"flag"
	"os"
	"testing"
)

// The rarest of the planted bugs shows after some 1300 cases, so the properties
// run several times as many unless told otherwise.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "6000"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

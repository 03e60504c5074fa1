package pool_test

// Configurations that change while leases are open and asks wait.

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever comes into force, a provider that counts by the configuration never refuses, and
// what has a place is served.
func TestProviderNeverRefusesAcrossConfigurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDomainWorld(t)
		for range rapid.SampledFrom([]int{10, 40, 100}).Draw(t, "steps") {
			w.step()
		}
		w.finish()
		w.judge()
	})
}

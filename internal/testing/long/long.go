//go:build long

package long

// Enabled is true with -tags long.
const Enabled = true

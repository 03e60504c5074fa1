//go:build !long

// Package long says which tests run. `go test ./...` runs those that take minutes in
// all; `go test -tags long ./...` runs the long ones too, and the quick ones with more
// cases.
package long

// Enabled is true with -tags long.
const Enabled = false

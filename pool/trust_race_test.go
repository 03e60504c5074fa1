//go:build race

package pool_test

// raced is true with the race detector, under which the worlds of trust take minutes: one
// case of each table runs, and `make trust` runs all of them without it.
const raced = true

//go:build !failpoints

// Package failpoint lets a test kill the process at a named place, as a crash or a
// lost power cord would, to see what is left behind.
//
// In an ordinary build At and Note are empty and cost nothing. Built with the tag
// failpoints, the process reads KEYBROKER_FAILPOINT=name:n and kills itself with
// SIGKILL when it reaches At(name) for the n-th time: nothing is flushed, no
// deferred call runs.
package failpoint

// At marks a place at which a test may end the process.
func At(string) {}

// Note tells a test that something has happened, and of what.
func Note(event, of string) {}

//go:build unix

package main

import "syscall"

// noCoreDumps keeps keys out of core files.
func noCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }

//go:build !linux

package canary

const keeps = false

func settle() {}

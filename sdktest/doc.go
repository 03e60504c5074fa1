// Package sdktest proves that the providers' own SDKs work through package
// client: each of them calls a simulated provider with keys of a real broker.
//
// It is a module of its own, so that who uses package client does not inherit
// the SDKs. For the same reason the benchmark beside Redis is here.
package sdktest

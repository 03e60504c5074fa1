// Package fleet simulates fleets of services that share a provider's keys, on virtual
// time: what share of what the keys allow do they get, how many refusals do they meet,
// how long do they wait, and is it fair? The same fleet can be run under several
// strategies: by way of the real engine, and in the ways that people do it without.
//
// A run is a sequence of events, and all chance in it comes from its seed: the same
// scenario, strategy and seed give the same result to the last digit.
package fleet

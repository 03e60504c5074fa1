// Package killtest kills a real broker under real load, again and again, and keeps a
// list of its own of what was granted. It has tests only: see TestKill, and make kill
// for the long run.
//
// Nothing here is shared with the engine. What the providers would count is counted
// anew, from what the clients have received (provider_test.go).
package killtest

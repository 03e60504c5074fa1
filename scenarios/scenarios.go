// Package scenarios has the scenarios that keybroker simulate runs if it is given none.
package scenarios

import "embed"

// Files are the scenarios.
//
//go:embed *.yaml
var Files embed.FS

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is that of the module, as the go command stamped it, with the commit
// it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "devel" {
			v += "-" + s.Value[:12]
		}
	}
	return v
}

func printVersion(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "version", "keybroker version prints the version.\n")
	if err := f.parse(args); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.stdout, "keybroker %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

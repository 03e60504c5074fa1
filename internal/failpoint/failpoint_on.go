//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

var (
	name, nth = parse(os.Getenv("KEYBROKER_FAILPOINT"))
	reached   atomic.Int64
)

// parse reads name:n. A test that misspells it must not pass for want of a crash.
func parse(env string) (string, int64) {
	if env == "" {
		return "", 0
	}
	name, count, _ := strings.Cut(env, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 || name == "" {
		panic("KEYBROKER_FAILPOINT=" + env + " is not name:n with n from 1")
	}
	return name, n
}

// At ends the process if this is the place, and the time, that the environment
// names.
func At(place string) {
	if place != name || reached.Add(1) != nth {
		return
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill()
	}
	select {} // the signal is on its way
}

// Note prints that something has happened, of what, and when by the wall clock.
func Note(event, of string) {
	fmt.Fprintf(os.Stderr, "failpoint: %s %s %s\n", event, of, time.Now().UTC().Format(time.RFC3339Nano))
}

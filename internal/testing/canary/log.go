package canary

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// Logger logs everything, as JSON, for nobody but the canary and those given.
func Logger(place string, also ...io.Writer) *slog.Logger {
	out := io.MultiWriter(append(also, Writer(place))...)
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// LoggerFor is Logger for tests. What is measured logs nothing.
func LoggerFor(t testing.TB, place string) *slog.Logger {
	if _, measured := t.(*testing.B); measured {
		return slog.New(slog.DiscardHandler)
	}
	return Logger(place)
}

// Measuring reports whether benchmarks are to be run, which must not be made slow by
// logs of everything.
func Measuring() bool {
	for _, a := range os.Args {
		if v, ok := strings.CutPrefix(a, "-test.bench="); ok && v != "" {
			return true
		}
	}
	return false
}

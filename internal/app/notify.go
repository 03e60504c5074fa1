package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// notifier logs what a pool gives notice of.
func notifier(logger *slog.Logger) func(pool.Event) {
	return func(n pool.Event) {
		level := slog.LevelWarn
		switch {
		case n.Kind == pool.KeyBack, n.Kind == pool.CoolingDown && !n.Act:
			level = slog.LevelInfo
		case n.Kind == pool.KeyQuarantined:
			level = slog.LevelError
		}
		attrs := []slog.Attr{slog.String("event", n.Kind.String())}
		for _, a := range []struct{ name, value string }{{"key", n.Key}, {"group", n.Group}, {"class", n.Class}} {
			if a.value != "" {
				attrs = append(attrs, slog.String(a.name, a.value))
			}
		}
		if n.Wait > 0 {
			attrs = append(attrs, slog.String("for", n.Wait.Round(time.Millisecond).String()))
		}
		logger.LogAttrs(context.Background(), level, n.Text, attrs...)
	}
}

// storeNotifier logs when the store cannot be reached, and when it can again.
func storeNotifier(logger *slog.Logger) func(error) {
	return func(err error) {
		if err != nil {
			logger.Error("the store does not answer; nothing is granted that might be forgotten, until it does", "error", err)
		} else {
			logger.Info("the store answers again")
		}
	}
}

package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// notifier logs the events of a domain.
func notifier(logger *slog.Logger) func(pool.Event) {
	return func(e pool.Event) {
		level := slog.LevelWarn
		switch {
		case e.Kind == pool.KeyBack, e.Kind == pool.CoolingDown && !e.Act:
			level = slog.LevelInfo
		case e.Kind == pool.KeyQuarantined:
			level = slog.LevelError
		}
		attrs := []slog.Attr{slog.String("event", e.Kind.String())}
		for _, a := range []struct{ name, value string }{{"key", e.Key}, {"group", e.Group}, {"class", e.Class}} {
			if a.value != "" {
				attrs = append(attrs, slog.String(a.name, a.value))
			}
		}
		if e.Wait > 0 {
			attrs = append(attrs, slog.String("for", e.Wait.Round(time.Millisecond).String()))
		}
		logger.LogAttrs(context.Background(), level, e.Text, attrs...)
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

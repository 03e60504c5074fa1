package sim_test

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/sim"
)

// A judge recomputes, from the whole history and with rational numbers, how
// much is free at a time.
type judge func(history []entry, limit int64, at time.Duration) *big.Rat

// An entry is a charge of n, or a change of the limit to n.
type entry struct {
	at    time.Duration
	n     int64
	limit bool
}

const span = 7 * time.Nanosecond // an odd and short window, so that steps meet its edges

func TestAccountsAgreeWithBruteForce(t *testing.T) {
	const reset = 3 * time.Nanosecond
	for name, c := range map[string]struct {
		account func(limit int64) sim.Limiter
		free    judge
	}{
		"bucket":  {func(l int64) sim.Limiter { return sim.NewTokenBucket(l, span) }, replay},
		"sliding": {func(l int64) sim.Limiter { return sim.NewSlidingWindow(l, span) }, lastWindow},
		"fixed":   {func(l int64) sim.Limiter { return sim.NewFixedWindow(l, span, reset) }, sinceReset(reset)},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { compare(t, c.account, c.free) })
		})
	}
}

func compare(t *rapid.T, account func(int64) sim.Limiter, free judge) {
	start := rapid.Int64Range(0, 20).Draw(t, "start")
	l := account(start)
	limit := start
	var history []entry
	var now time.Duration
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		at := now + time.Duration(rapid.Int64Range(-3, 9).Draw(t, "advance"))
		now = max(now, at)
		n := rapid.Int64Range(0, 25).Draw(t, "n")
		fits := func(at time.Duration) bool {
			return free(history, start, at).Cmp(big.NewRat(n, 1)) >= 0
		}

		switch wait := l.Until(at, n); {
		case wait == sim.Never:
			if n <= limit && limit > 0 {
				t.Fatalf("never, though %d fits %d", n, limit)
			}
		case !fits(now + wait):
			t.Fatalf("%d does not fit at %v + %v", n, now, wait)
		case wait > 0 && fits(now+wait-1):
			t.Fatalf("%d fits before %v + %v", n, now, wait)
		}

		switch rapid.IntRange(0, 4).Draw(t, "do") {
		case 0:
			l.Charge(at, n)
			history = append(history, entry{at: now, n: n})
		case 1:
			l.SetLimit(at, n)
			limit = n
			history = append(history, entry{at: now, n: n, limit: true})
		default:
			want := fits(now)
			if got := l.Take(at, n); got != want {
				t.Fatalf("take %d at %v: %v, brute force says %v", n, now, got, want)
			}
			if want {
				history = append(history, entry{at: now, n: n})
			}
		}
		if got, want := l.Remaining(at), floor(free(history, start, now)); got != want {
			t.Fatalf("remaining at %v: %d, brute force says %d", now, got, want)
		}
	}
}

// replay steps a bucket through every nanosecond from the origin.
func replay(history []entry, limit int64, at time.Duration) *big.Rat {
	level := big.NewRat(limit, 1)
	for tick := time.Duration(0); ; tick++ {
		for _, e := range history {
			switch {
			case e.at != tick:
			case e.limit:
				level.Add(level, big.NewRat(e.n-limit, 1))
				limit = e.n
			default:
				level.Sub(level, big.NewRat(e.n, 1))
			}
		}
		if tick >= at {
			return level
		}
		level.Add(level, big.NewRat(limit, int64(span)))
		if full := big.NewRat(limit, 1); level.Cmp(full) > 0 {
			level = full
		}
	}
}

func lastWindow(history []entry, limit int64, at time.Duration) *big.Rat {
	return minus(history, limit, func(e entry) bool { return at-e.at < span })
}

func sinceReset(reset time.Duration) judge {
	// The windows are numbered; shifting by a span keeps the division exact
	// for times before the first reset.
	number := func(at time.Duration) int64 { return int64((at - reset + span) / span) }
	return func(history []entry, limit int64, at time.Duration) *big.Rat {
		return minus(history, limit, func(e entry) bool { return number(e.at) == number(at) })
	}
}

// minus is the limit in force less the charges that count.
func minus(history []entry, limit int64, counts func(entry) bool) *big.Rat {
	var used int64
	for _, e := range history {
		switch {
		case e.limit:
			limit = e.n
		case counts(e):
			used += e.n
		}
	}
	return big.NewRat(limit-used, 1)
}

func floor(r *big.Rat) int64 {
	return new(big.Int).Div(r.Num(), r.Denom()).Int64() // Euclidean: rounds down, as the denominator is positive
}

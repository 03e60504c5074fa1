package limit

// What a bucket remembers of its charges, against a list of all of them.

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// charged is one charge.
type charged struct {
	at Time
	n  int64
}

// after adds up what was charged from a moment on.
func after(all []charged, t Time) (n int64) {
	for _, c := range all {
		if c.at >= t {
			n += c.n
		}
	}
	return n
}

// reach is the last charge at or before a moment: the history may count it as
// later, since it knows no better.
func reach(all []charged, t Time) Time {
	last := Time(0)
	for _, c := range all {
		if c.at <= t {
			last = c.at
		}
	}
	return last
}

func drawHistory(t *rapid.T) (h *history, all []charged, now Time) {
	h = &history{}
	for range rapid.SampledFrom([]int{1, 10, 40, 300}).Draw(t, "charges") {
		unit := rapid.SampledFrom([]time.Duration{0, time.Microsecond, time.Millisecond, time.Second, time.Minute}).Draw(t, "unit")
		now = now.Add(unit * time.Duration(rapid.IntRange(0, 90).Draw(t, "units")))
		n := rapid.Int64Range(1, 1000).Draw(t, "amount")
		h.note(now, n)
		all = append(all, charged{now, n})
	}
	return h, all, now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "then")))
}

// It never tells less than there was, and no more than there was from a little
// earlier on: eight times its age at the worst, the charge before, and a grain.
func TestHistoryTellsAllAndLittleMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, all, now := drawHistory(t)
		for range 5 {
			from := Time(rapid.Int64Range(0, int64(now)).Draw(t, "from"))
			n, ok := h.since(from)
			if !ok {
				t.Fatalf("it does not know, though it has seen all")
			}
			if exact := after(all, from+1); n < exact {
				t.Fatalf("%d since %v, was %d", n, from, exact)
			}
			early := max(0, from-8*(now-from)-grain)
			if most := after(all, reach(all, early)-grain); n > most {
				t.Fatalf("%d since %v (%v ago), was %d since %v", n, from, now.Sub(from), most, early)
			}
		}
	})
}

// At any moment between two, what it says was charged before is no more than that.
func TestSpansCoverAllMoments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, all, now := drawHistory(t)
		from := Time(rapid.Int64Range(0, int64(now)).Draw(t, "from"))
		to := Time(rapid.Int64Range(int64(from), int64(now)).Draw(t, "to"))
		var spans []span
		if !h.spans(from, to, func(s span) { spans = append(spans, s) }) {
			t.Fatalf("it does not know, though it has seen all")
		}
		if spans[0].end < to {
			t.Fatalf("the newest span ends at %v, before %v", spans[0].end, to)
		}
		for range 10 {
			at := Time(rapid.Int64Range(int64(from), int64(to)).Draw(t, "at"))
			i := 0 // the span of this moment
			for i+1 < len(spans) && spans[i+1].end > at {
				i++
			}
			if before := h.total - after(all, at+1); spans[i].before > before {
				t.Fatalf("%d had been charged before %v, and it says %d", before, at, spans[i].before)
			}
		}
	})
}

// What it has not seen it does not make up.
func TestHistoryBeginsSomewhere(t *testing.T) {
	h := &history{begun: 10}
	h.note(20, 5)
	_, ok := h.since(9)
	assert.False(t, ok)
	n, ok := h.since(10)
	assert.True(t, ok)
	assert.EqualValues(t, 5, n)
}

func TestHistoryIsBounded(t *testing.T) {
	h := &history{}
	for i := range Time(100_000) {
		h.note(i*grain, 1<<62)
		assert.GreaterOrEqual(t, h.total, int64(0))
		assert.Positive(t, h.n)
	}
	assert.LessOrEqual(t, unsafe.Sizeof(*h), uintptr(1024))
}

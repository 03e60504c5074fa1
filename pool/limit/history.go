package limit

// history remembers how much was charged to a bucket and when, in a finer resolution
// the more recent it is. It is bounded. Where it has forgotten, its answers are on the
// safe side: they charge too much.
type history struct {
	total int64
	n     int
	begun Time     // nothing is known of earlier moments
	marks [24]mark // oldest first

	claims claims // of how much is used at most
	seen
}

// seen is what headers have shown so far.
type seen struct {
	foreign int64 // used by others
	drift   int64 // what the last header said is used, less what we thought
	readAt  Time  // when that was
}

// seen is nothing while no header speaks of the limit.
func (b *Bucket) seen() seen {
	if b.history == nil {
		return seen{}
	}
	return b.history.seen
}

// mark stands for the charges from one moment to another.
type mark struct {
	at, until Time
	before    int64 // charged before at
}

// grain is the time within which charges share a mark.
const grain = Time(4_000_000) // 4 ms

func (h *history) note(now Time, n int64) {
	if h.total > 1<<60 { // absurd amounts would overflow: begin anew
		*h = history{begun: now, seen: h.seen}
	}
	if h.n == 0 || now >= h.marks[h.n-1].at+grain {
		if h.n == len(h.marks) {
			h.thin(now)
		}
		h.marks[h.n] = mark{at: now, before: h.total}
		h.n++
	}
	h.marks[h.n-1].until = now
	h.total += min(n, 1<<60)
}

// thin joins each mark with the one before it if the two are close for their age. If
// that makes no room, it repeats with a wider notion of close.
func (h *history) thin(now Time) {
	for part := Time(4); h.n == len(h.marks); part /= 2 {
		kept := 1
		for i := 1; i < h.n; i++ {
			m, last := h.marks[i], h.marks[kept-1]
			if part == 0 && i == 1 || part > 0 && m.at-last.at < (now-last.at)/part {
				h.marks[kept-1].until = m.until
				continue
			}
			h.marks[kept] = m
			kept++
		}
		h.n = kept
	}
}

// span is a time that ends at end, in which at least before had been charged already.
type span struct {
	end    Time
	before int64
}

// spans calls f for the spans that cover all time from one moment to another, the
// newest first. It returns false if the history does not reach back so far.
func (h *history) spans(from, to Time, f func(span)) bool {
	end, before := to, h.total
	for i := h.n - 1; i >= 0; i-- {
		m := h.marks[i]
		if m.at > to {
			before = m.before
			continue
		}
		if m.until < end { // nothing was charged in between
			f(span{end, before})
			end = m.until
		}
		if m.until < from {
			return true
		}
		f(span{end, m.before})
		if m.at <= from {
			return true
		}
		end, before = m.at, m.before
	}
	if from < h.begun {
		return false
	}
	f(span{end, before})
	return true
}

// since returns what was charged since a moment, or slightly more; false if that is
// not known.
func (h *history) since(t Time) (n int64, ok bool) {
	ok = h.spans(t, t, func(s span) { n = h.total - s.before })
	return n, ok
}

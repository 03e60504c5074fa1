package pool

import "time"

const sliceCount = 32 // of a window; what is lost is one part in so many

// sliding counts what was charged in the last window, at any moment. It keeps
// amounts by sliceCount of time. A slice counts until all of it is older than the
// window, and delta longer, since a request may arrive that much after its
// grant.
type sliding struct {
	limit int64
	slice time.Duration // a 32nd of window and delta
	total int64
	last  int64                 // number of the newest slice
	sums  [sliceCount + 1]int64 // slice i is at i mod len
}

func newSliding(limit int64, window, delta time.Duration) *sliding {
	return &sliding{limit: limit, slice: (window + delta + sliceCount - 1) / sliceCount}
}

func (b *sliding) at(i int64) *int64 { return &b.sums[i%(sliceCount+1)] }

// gone is when slice i stops counting: a window after its end.
func (b *sliding) gone(i int64) Time { return Time((i + 1 + sliceCount) * int64(b.slice)) }

func (b *sliding) oldest() int64 { return max(0, b.last-sliceCount) }

// advance drops the slices that no longer count.
func (b *sliding) advance(now Time) {
	current := int64(now) / int64(b.slice)
	if current-b.last > sliceCount {
		b.sums, b.total, b.last = [sliceCount + 1]int64{}, 0, current
		return
	}
	for b.last < current {
		b.last++
		b.total -= *b.at(b.last)
		*b.at(b.last) = 0
	}
}

func (b *sliding) used(now Time) int64 {
	b.advance(now)
	return b.total
}

func (b *sliding) fitAt(now Time, n int64) Time {
	b.advance(now)
	over := b.total - max(b.limit-n, 0)
	if over <= 0 {
		return now
	}
	i := b.oldest()
	for over -= *b.at(i); over > 0; over -= *b.at(i) {
		i++
	}
	return b.gone(i)
}

func (b *sliding) charge(now Time, n int64) {
	b.advance(now)
	n = min(n, int64(longest)-b.total)
	*b.at(b.last) += n
	b.total += n
}

// refund takes n out of the slice it was charged in, if that still counts.
func (b *sliding) refund(now, since Time, n int64) {
	b.advance(now)
	i := int64(since) / int64(b.slice)
	if i < b.oldest() {
		return
	}
	n = min(n, *b.at(i))
	*b.at(i) -= n
	b.total -= n
}

func (b *sliding) setLimit(_ Time, limit int64) { b.limit = limit }

func (b *sliding) resetAt(now Time) Time {
	b.advance(now)
	if b.total == 0 {
		return now
	}
	i := b.last
	for *b.at(i) == 0 {
		i--
	}
	return b.gone(i)
}

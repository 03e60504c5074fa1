package record

import (
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// How a cooldown, and what is known of one limit, are written and read again.

func (w *writer) cooldown(s *pool.RestState) {
	if s == nil {
		w.flags(false)
		return
	}
	w.flags(true, s.Operator)
	w.duration(s.Left)
	w.text(s.By)
	w.byte(byte(s.Only))
	w.byte(byte(s.Class))
	w.duration(s.Backoff)
}

func (r *reader) cooldown() *pool.RestState {
	f := r.flags(2)
	if !f[0] {
		if f[1] {
			r.fail(errRange)
		}
		return nil
	}
	return &pool.RestState{
		Operator: f[1], Left: r.duration(), By: r.text(),
		Only: provider.Dimension(r.below(int(provider.NumDimensions) + 1)), Class: provider.Class(r.below(int(provider.NoAnswer) + 1)), Backoff: r.duration(),
	}
}

func (w *writer) buckets(bs []pool.BucketState) {
	w.uint(uint64(len(bs)))
	for i := range bs {
		w.bucket(&bs[i])
	}
}

func (r *reader) buckets() (bs []pool.BucketState) {
	for range r.count() {
		bs = append(bs, r.bucket())
	}
	return bs
}

// What a bucket has beside its limit. Most have little.
const (
	hasName = 1 << iota
	hasUse
	hasBacklog
	hasSlices
	hasPast
	hasEnds
	hasStated
	hasHeld
)

func (w *writer) bucket(s *pool.BucketState) {
	has := uint8(0)
	set := func(bit uint8, yes bool) {
		if yes {
			has |= bit
		}
	}
	set(hasName, s.Name != "")
	set(hasUse, s.Used != 0)
	set(hasBacklog, s.Backlog != 0)
	set(hasSlices, s.Slice != 0 || len(s.Slices) > 0)
	set(hasPast, s.Past != 0 || s.Reset != 0)
	set(hasEnds, !s.Ends.IsZero())
	set(hasStated, s.Ahead != 0 || s.Peak != 0)
	set(hasHeld, s.Held != 0)
	w.byte(has)
	w.byte(byte(s.Dimension)<<4 | byte(s.Kind)<<2)
	w.flags(s.Learned, s.Lowered)
	w.window(s.Window)
	w.int(s.Limit)
	if has&hasName != 0 {
		w.text(s.Name)
	}
	if has&hasUse != 0 {
		w.int(s.Used)
	}
	if has&hasBacklog != 0 {
		w.duration(s.Backlog)
	}
	if has&hasSlices != 0 {
		w.duration(s.Slice)
		w.uint(uint64(len(s.Slices)))
		for _, n := range s.Slices {
			w.int(n)
		}
	}
	if has&hasPast != 0 {
		w.int(s.Past)
		w.duration(s.Reset)
	}
	if has&hasEnds != 0 {
		w.moment(s.Ends)
	}
	if has&hasStated != 0 {
		w.int(s.Ahead)
		w.int(s.Peak)
	}
	if has&hasHeld != 0 {
		w.int(s.Held)
	}
}

func (r *reader) bucket() (s pool.BucketState) {
	has := r.byte()
	what := r.byte()
	f := r.flags(2)
	s.Dimension, s.Kind, s.Learned, s.Lowered = provider.Dimension(what>>4), provider.Kind(what>>2&3), f[0], f[1]
	if what&3 != 0 || s.Dimension >= provider.NumDimensions || s.Kind > provider.Fixed {
		r.fail(errRange)
	}
	s.Window, s.Limit = r.window(), r.int()
	if has&hasName != 0 {
		s.Name = r.text()
	}
	if has&hasUse != 0 {
		s.Used = r.int()
	}
	if has&hasBacklog != 0 {
		s.Backlog = r.duration()
	}
	if has&hasSlices != 0 {
		s.Slice = r.duration()
		for range r.count() {
			s.Slices = append(s.Slices, r.int())
		}
	}
	if has&hasPast != 0 {
		s.Past, s.Reset = r.int(), r.duration()
	}
	if has&hasEnds != 0 {
		s.Ends = r.moment()
	}
	if has&hasStated != 0 {
		s.Ahead, s.Peak = r.int(), r.int()
	}
	if has&hasHeld != 0 {
		s.Held = r.int()
	}
	return s
}

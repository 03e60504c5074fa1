package record

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

const (
	// maxChunk bounds a chunk, in bytes. No part is larger: what bounds the parts is beside
	// barredBytes. Every store takes chunks of this size.
	maxChunk = 128 << 10
	// Chunks fall into tiers by size: the first has those of at most smallest bytes, and each
	// further tier those up to sizeRatio times larger. When fanout chunks of one tier would
	// exist, they are joined.
	fanout    = 8
	sizeRatio = 8
	smallest  = 2 << 10
	// waste is how many bytes of a log may be out of date before it is written anew, beside as
	// many as are up to date.
	waste = 64 << 10
)

// Log is the chunks of a record as its owner writes them. It is used by one goroutine at a
// time. A save is a Change and, if it has succeeded, a Saved.
type Log struct {
	epoch  uint64 // of the owner; it makes the ids of chunks unlike those of other owners
	number uint64 // of the last chunk
	chunks []*chunk
	latest map[id]place

	attempt *attempt // the last Change, until Saved
	// unsure are the ids of chunks that are not part of the log, and may be in the store: those
	// of a predecessor, and those of changes of which nobody knows whether they were saved.
	unsure map[string]bool
}

// chunk is a chunk in the store.
type chunk struct {
	id    string
	b     []byte
	parts []part
	live  int // bytes of the parts that count
}

// place is the chunk that has the latest version of a part, and the part's size. The size is 0
// for the note that a class was forgotten, because a whole rewrite drops it.
type place struct {
	chunk *chunk
	size  int
}

// attempt is what a Change makes of the log.
type attempt struct {
	added  []*chunk
	number uint64          // of the last one
	joined map[*chunk]bool // chunks that are dropped, since what counts of them is written again
	gone   map[string]bool // classes that were forgotten
}

// NewLog begins the log of an owner. stored are the chunks that are in the store: the first save
// drops them.
func NewLog(epoch uint64, stored map[string][]byte) *Log {
	l := &Log{epoch: epoch, latest: map[id]place{}, unsure: map[string]bool{}}
	for id := range stored {
		l.unsure[id] = true
	}
	return l
}

// Change returns what a save has to put into the store, and which chunks it has to drop, so that
// a state changes the record. The first state has to be Whole. A class that comes back after it
// was forgotten has to come with all its accounts. If the save of the last change
// failed, or nobody knows whether it did, the state has to have whatever that one had; then the
// record is the same whether that save has had its effect or not.
func (l *Log) Change(s *pool.State, maxTTL time.Duration) (put map[string][]byte, drop []string) {
	a := &attempt{number: l.number, joined: map[*chunk]bool{}, gone: map[string]bool{}}
	if before := l.attempt; before != nil {
		for _, c := range before.added {
			l.unsure[c.id] = true
		}
		a.joined = before.joined // they may have been dropped
	}
	l.attempt = a
	for _, name := range s.Gone {
		a.gone[name] = true
	}
	fresh := parts(s, maxTTL)
	if s.Whole {
		for _, c := range l.chunks {
			a.joined[c] = true
		}
	} else {
		l.join(a, fresh)
		fresh = append(fresh, l.rest(a, fresh)...)
	}
	a.pack(l.epoch, fresh)

	put = make(map[string][]byte, len(a.added))
	for _, c := range a.added {
		put[c.id] = c.b
	}
	for id := range l.unsure {
		drop = append(drop, id)
	}
	for c := range a.joined {
		drop = append(drop, c.id)
	}
	return put, drop
}

// Saved says that the last Change has been saved.
func (l *Log) Saved() {
	a := l.attempt
	if len(a.gone) > 0 {
		for x, p := range l.latest {
			if x.about(a.gone) {
				p.chunk.live -= p.size
				delete(l.latest, x)
			}
		}
	}
	for _, c := range a.added {
		for _, p := range c.parts {
			if was, ok := l.latest[p.id]; ok {
				was.chunk.live -= was.size
			}
			now := place{c, len(p.b)}
			if p.gone {
				now.size = 0
			}
			l.latest[p.id] = now
			c.live += now.size
		}
	}
	l.chunks = append(slices.DeleteFunc(l.chunks, func(c *chunk) bool { return a.joined[c] }), a.added...)
	if len(l.chunks) == len(a.added) { // nothing else counts
		maps.DeleteFunc(l.latest, func(_ id, p place) bool { return a.joined[p.chunk] })
	}
	l.number, l.attempt = a.number, nil
	clear(l.unsure)
}

// join chooses the chunks whose parts are written again along with fresh ones: all, if more is
// out of date than up to date; else those of about the size of what is written, if there are
// many.
func (l *Log) join(a *attempt, fresh []part) {
	total, live, n := 0, 0, 0
	for _, p := range fresh {
		n += len(p.b)
	}
	for _, c := range l.chunks {
		total, live = total+len(c.b), live+c.live
		if a.joined[c] {
			n += c.live
		}
	}
	all := total+n > 2*live+waste
	for more := true; more; {
		var alike []*chunk
		for _, c := range l.chunks {
			if !a.joined[c] && (all || tier(len(c.b)) <= tier(n) && len(c.b) < maxChunk/2) {
				alike = append(alike, c)
			}
		}
		if more = len(alike) > 0 && (all || len(alike) >= fanout-1); more {
			for _, c := range alike {
				a.joined[c] = true
				n += c.live
			}
		}
	}
}

// tier orders chunks by their size, roughly.
func tier(size int) (t int) {
	for ; size > smallest; size /= sizeRatio {
		t++
	}
	return t
}

// rest returns the parts of the joined chunks that count, beside fresh ones. That a class is
// gone need not be said where no chunk is left that has anything of it.
func (l *Log) rest(a *attempt, fresh []part) (rest []part) {
	written := make(map[id]bool, len(fresh))
	for _, p := range fresh {
		written[p.id] = true
	}
	for _, c := range l.chunks {
		if !a.joined[c] {
			continue
		}
		for _, p := range c.parts {
			if l.latest[p.id].chunk == c && !written[p.id] && !p.about(a.gone) && !(p.gone && len(a.joined) == len(l.chunks)) {
				rest = append(rest, p)
			}
		}
	}
	return rest
}

// about reports whether a part belongs to one of some classes.
func (x id) about(classes map[string]bool) bool {
	switch x.kind {
	case class, account, own:
		return classes[x.name]
	}
	return false
}

// pack puts parts into new chunks.
func (a *attempt) pack(epoch uint64, parts []part) {
	for len(parts) > 0 {
		n, size := 0, 2*binary.MaxVarintLen64
		for n < len(parts) && (n == 0 || size+len(parts[n].b)+binary.MaxVarintLen32 <= maxChunk) {
			size += len(parts[n].b) + binary.MaxVarintLen32
			n++
		}
		a.number++
		a.added = append(a.added, newChunk(epoch, a.number, parts[:n], size))
		parts = parts[n:]
	}
}

// newChunk makes a chunk of at most size bytes. It keeps copies of the parts, so that the memory
// that they came from is free again.
func newChunk(epoch, number uint64, parts []part, size int) *chunk {
	c := &chunk{id: fmt.Sprintf("%x-%x", epoch, number), parts: make([]part, len(parts))}
	w := writer{make([]byte, 0, size)}
	w.uint(version)
	w.uint(number)
	for i, p := range parts {
		w.uint(uint64(len(p.b)))
		from := len(w.b)
		w.b = append(w.b, p.b...)
		p.b = w.b[from:len(w.b):len(w.b)]
		c.parts[i] = p
	}
	c.b = w.b
	return c
}

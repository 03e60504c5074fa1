package audit

import (
	"cmp"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"time"
)

// Query asks who held which key. A field that is empty or zero asks for all.
type Query struct {
	Pool, Key, Holder string
	Lease             string    // a lease id, or its Fingerprint
	Since, Until      time.Time // Until is not in it
}

// Lease is what the log says of one.
type Lease struct {
	Lease  string `json:"lease"` // its Fingerprint
	Pool   string `json:"pool,omitempty"`
	Key    string `json:"key,omitempty"`
	Holder string `json:"holder,omitempty"`
	Peer   string `json:"peer,omitempty"`

	// Granted is zero if only the end was seen: the lease is older than the log.
	Granted time.Time `json:"granted,omitzero"`
	// Ended is zero if no end was seen. It was held until Expires then, or longer
	// if it was renewed.
	Ended   time.Time `json:"ended,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// first and last are the moments between which it was held, as far as is known.
func (l *Lease) first() time.Time {
	if l.Granted.IsZero() {
		return l.Ended
	}
	return l.Granted
}

func (l *Lease) last() time.Time {
	switch {
	case !l.Ended.IsZero():
		return l.Ended
	case l.Expires.After(l.Granted):
		return l.Expires
	}
	return l.Granted
}

// Holding sums up the leases of one key by one holder.
type Holding struct {
	Pool   string    `json:"pool,omitempty"`
	Key    string    `json:"key,omitempty"`
	Holder string    `json:"holder,omitempty"`
	Leases int       `json:"leases"`
	First  time.Time `json:"first"`           // the first was granted, or, if that is not in the log, ended
	Last   time.Time `json:"last"`            // the last moment that one was held
	Open   int       `json:"open"`            // how many have no end in the log: their ttl's stands for it
	Peers  []string  `json:"peers,omitempty"` // hosts, 8 at most
}

// Denial is how often somebody was not allowed to ask.
type Denial struct {
	Holder string `json:"holder,omitempty"`
	Peer   string `json:"peer,omitempty"` // its host; empty too for those above 1000 kinds of denial
	Reason string `json:"reason,omitempty"`
	Count  int    `json:"count"`
}

// Answer is what a log says to a Query.
type Answer struct {
	Holdings []Holding `json:"holdings"`         // by pool, key and holder
	Leases   []Lease   `json:"leases,omitempty"` // in the order of their grants, if they were asked for
	Denials  []Denial  `json:"denials"`          // most frequent first; of any key, since none was chosen
	Omitted  uint64    `json:"omitted"`          // refusals and denials in that time that were not written down

	Begins     time.Time `json:"begins,omitzero"` // the first and the last entry read
	Ends       time.Time `json:"ends,omitzero"`
	Unreadable int       `json:"unreadable"` // lines
}

// Bounds of an answer.
const (
	maxPeers   = 8
	maxDenials = 1000
)

// Search answers a Query from entries in the order in which they were written. It
// keeps the leases that match and have not ended, and sums of those that have, so it
// needs memory for what is open at one time and not for all that was granted. A lease
// that was never ended stays open to the last entry, as it may have been renewed.
type Search struct {
	query    Query
	list     bool
	open     map[string]*Lease
	holdings map[holding]*Holding
	denials  map[denial]int
	answer   Answer
}

type (
	holding struct{ pool, key, holder string }
	denial  struct{ holder, peer, reason string }
)

// NewSearch begins a search. If list is set the answer has every lease, and takes the
// memory for it.
func NewSearch(q Query, list bool) *Search {
	if raw, err := hex.DecodeString(q.Lease); q.Lease != "" && (err != nil || len(raw) != fingerprintSize) {
		q.Lease = Fingerprint(q.Lease)
	}
	q.Lease = strings.ToLower(q.Lease)
	return &Search{
		query: q, list: list, open: map[string]*Lease{},
		holdings: map[holding]*Holding{}, denials: map[denial]int{},
	}
}

// Add takes the next entry.
func (s *Search) Add(e *Entry) {
	if s.answer.Begins.IsZero() || e.Time.Before(s.answer.Begins) {
		s.answer.Begins = e.Time
	}
	if e.Time.After(s.answer.Ends) {
		s.answer.Ends = e.Time
	}
	if s.within(e.Time) {
		s.answer.Omitted += e.Omitted
	}
	switch e.Decision {
	case Granted:
		s.granted(e)
	case Ended:
		s.ended(e)
	case Denied:
		s.denied(e)
	}
}

func (s *Search) within(t time.Time) bool {
	return !t.Before(s.query.Since) && s.before(t)
}

func (s *Search) before(t time.Time) bool {
	return s.query.Until.IsZero() || t.Before(s.query.Until)
}

// matches compares what is asked for with what an entry says.
func (q *Query) matches(e *Entry, equal func(want, got string) bool) bool {
	return equal(q.Pool, e.Pool) && equal(q.Key, e.Key) && equal(q.Holder, e.Holder) && equal(q.Lease, e.Lease)
}

func same(want, got string) bool { return want == "" || want == got }

// sameIfSaid is for denials, which say little: a caller without an identity has no
// holder, and no key had been chosen.
func sameIfSaid(want, got string) bool { return got == "" || same(want, got) }

func (s *Search) granted(e *Entry) {
	if !s.query.matches(e, same) {
		return
	}
	if l := s.open[e.Lease]; l != nil { // a repeated call is given the same lease again
		if e.Expires.After(l.Expires) {
			l.Expires = e.Expires
		}
		return
	}
	s.open[e.Lease] = &Lease{
		Lease: e.Lease, Pool: e.Pool, Key: e.Key, Holder: e.Holder, Peer: e.Peer,
		Granted: e.Time, Expires: e.Expires,
	}
}

// ended counts a lease whose grant was not seen too: it was held before the log
// begins, and the file that has the grant may be gone. If the line does not say of
// which key it was, it answers nothing.
func (s *Search) ended(e *Entry) {
	l := s.open[e.Lease]
	if l == nil {
		if e.Key == "" || !s.query.matches(e, same) {
			return
		}
		l = &Lease{Lease: e.Lease, Pool: e.Pool, Key: e.Key, Holder: e.Holder, Peer: e.Peer}
	}
	l.Ended = e.Time
	delete(s.open, e.Lease)
	s.count(l)
}

// count adds a lease to the answer if it was held in the time asked for.
func (s *Search) count(l *Lease) {
	from, since := l.Granted, s.query.Since
	if from.IsZero() {
		from = s.answer.Begins
	}
	if !s.before(from) || from.Before(since) && !l.last().After(since) {
		return
	}
	if s.list {
		s.answer.Leases = append(s.answer.Leases, *l)
	}
	name := holding{l.Pool, l.Key, l.Holder}
	h := s.holdings[name]
	if h == nil {
		h = &Holding{Pool: l.Pool, Key: l.Key, Holder: l.Holder, First: l.first(), Last: l.last()}
		s.holdings[name] = h
	}
	h.Leases++
	if l.first().Before(h.First) {
		h.First = l.first()
	}
	if l.last().After(h.Last) {
		h.Last = l.last()
	}
	if l.Ended.IsZero() {
		h.Open++
	}
	if p := host(l.Peer); p != "" && len(h.Peers) < maxPeers && !slices.Contains(h.Peers, p) {
		h.Peers = append(h.Peers, p)
	}
}

func (s *Search) denied(e *Entry) {
	if !s.within(e.Time) || !s.query.matches(e, sameIfSaid) {
		return
	}
	d := denial{e.Holder, host(e.Peer), e.Reason}
	if _, known := s.denials[d]; !known && len(s.denials) >= maxDenials {
		d = denial{}
	}
	s.denials[d]++
}

// host is an address without its port, which is another for each connection.
func host(peer string) string {
	if h, _, err := net.SplitHostPort(peer); err == nil {
		return h
	}
	return peer
}

// Answer ends the search.
func (s *Search) Answer() *Answer {
	for id, l := range s.open {
		delete(s.open, id)
		s.count(l)
	}
	a := &s.answer
	a.Holdings, a.Denials = []Holding{}, []Denial{}
	for _, h := range s.holdings {
		slices.Sort(h.Peers)
		a.Holdings = append(a.Holdings, *h)
	}
	for d, n := range s.denials {
		a.Denials = append(a.Denials, Denial{d.holder, d.peer, d.reason, n})
	}
	slices.SortFunc(a.Holdings, func(x, y Holding) int {
		return cmp.Or(cmp.Compare(x.Pool, y.Pool), cmp.Compare(x.Key, y.Key), cmp.Compare(x.Holder, y.Holder))
	})
	slices.SortFunc(a.Leases, func(x, y Lease) int {
		return cmp.Or(x.first().Compare(y.first()), cmp.Compare(x.Lease, y.Lease))
	})
	slices.SortFunc(a.Denials, func(x, y Denial) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Holder, y.Holder),
			cmp.Compare(x.Peer, y.Peer), cmp.Compare(x.Reason, y.Reason))
	})
	return a
}

package limit

import "github.com/keybroker/keybroker/internal/provider"

// slots counts calls at one time. Nothing is ever charged: its bucket holds one for
// each open call.
type slots struct {
	noResets
	terms *terms
}

func (*slots) kind() provider.Kind                              { return provider.Sliding }
func (*slots) used(Time) int64                                  { return 0 }
func (*slots) fitAt(now Time, _ int64) Time                     { return now }
func (*slots) charge(Time, int64)                               {}
func (*slots) refund(Time, Time, int64)                         {}
func (*slots) rescale(Time, int64, int64)                       {}
func (*slots) unusedAt(now Time) Time                           { return now }
func (s *slots) load(now Time, held int64) Time                 { return loadOf(now, held, s.terms.limit) }
func (*slots) reconcile(Time, *reading, *history) (int64, bool) { return 0, false }
func (*slots) snapshot(Time) Snapshot                           { return Snapshot{} }
func (*slots) restore(Time, Time, *Snapshot, int64)             {}
func (*slots) exhaust(Time, int64)                              {}
func (*slots) clear(Time)                                       {}
func (s *slots) fork(t *terms) counter                          { return &slots{terms: t} }

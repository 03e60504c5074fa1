package pool

import (
	"cmp"
	"slices"
	"time"
)

// EventKind is what an event is about.
type EventKind uint8

// The kinds of events. From SharedOrganization on they are warnings, which stay visible.
const (
	KeySuspect         EventKind = iota // a key was refused
	KeyQuarantined                      // a key is out of use until it is proven good
	KeyBack                             // a key works again
	CoolingDown                         // a group, a model, or a key for a model is out of use for a time
	SharedOrganization                  // quota groups that are one at the provider
	SplitOrganization                   // a quota group that is several at the provider
	AllRateLimited                      // every quota group was answered 429 at once
)

var eventNames = [...]string{
	"key_suspect", "key_quarantined", "key_back", "cooling_down",
	"shared_organization", "split_organization", "all_rate_limited",
}

// String gives a stable name, such as "key_suspect".
func (k EventKind) String() string { return eventNames[k] }

// Event is something that people should hear of. Key, Group and Class may be empty.
type Event struct {
	Kind  EventKind
	Key   string
	Group string
	Class string
	Text  string
	Wait  time.Duration // how long something is out of use
	Act   bool          // it does not pass by itself: somebody has to pay, or to replace a key
}

// Warning is an event that stays visible.
type Warning struct {
	Event
	First, Last Time
	Count       int64
}

const (
	maxEvents   = 64 // between two calls of Events
	maxWarnings = 64
)

func (dom *Domain) event(n Event) {
	if len(dom.events) < maxEvents {
		dom.events = append(dom.events, n)
	}
}

// Events returns what has happened since the last call.
func (dom *Domain) Events() []Event {
	all := dom.events
	dom.events = nil
	return all
}

// warn keeps a warning. It is also an event if it is new or comes again after a minute.
func (dom *Domain) warn(now Time, n Event) {
	id := Event{Kind: n.Kind, Key: n.Key, Group: n.Group, Class: n.Class}
	w := dom.warnings[id]
	if w == nil {
		if len(dom.warnings) >= maxWarnings {
			return
		}
		w = &Warning{Event: n, First: now}
		dom.warnings[id] = w
		dom.event(n)
	} else if now > w.Last.Add(time.Minute) {
		dom.event(n)
	}
	w.Last, w.Text = now, n.Text
	w.Count++
}

// Warnings lists what somebody should look at, the latest first.
func (dom *Domain) Warnings() (all []Warning) {
	for _, w := range dom.warnings {
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(b.Last, a.Last), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Class, b.Class))
	})
	return all
}

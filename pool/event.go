package pool

import (
	"cmp"
	"slices"
	"time"
)

// NoticeKind is what a notice is about.
type NoticeKind uint8

// The kinds of notices. From SharedOrganization on they are warnings: they stay
// to be seen.
const (
	KeySuspect         NoticeKind = iota // a key was refused
	KeyQuarantined                       // a key is out of use until it is proven good
	KeyBack                              // a key works again
	Resting                              // a group, a model, or a key for a model is out of use for a time
	SharedOrganization                   // quota groups that are one at the provider
	SplitOrganization                    // a quota group that is several at the provider
	AllRateLimited                       // every quota group was answered 429 at once
)

var noticeNames = [...]string{
	"key_suspect", "key_quarantined", "key_back", "resting",
	"shared_organization", "split_organization", "all_rate_limited",
}

// String gives a stable name, such as "key_suspect".
func (k NoticeKind) String() string { return noticeNames[k] }

// Notice is something that people should hear of. What it is about may be empty.
type Notice struct {
	Kind  NoticeKind
	Key   string
	Group string
	Class string
	Text  string
	Wait  time.Duration // how long something is out of use
	Act   bool          // it does not pass by itself: somebody has to pay, or to change a key
}

// Warning is a notice that stays to be seen.
type Warning struct {
	Notice
	First, Last Time
	Count       int64
}

const (
	maxNotices  = 64 // between two calls of Notices
	maxWarnings = 64
)

func (dom *Domain) notice(n Notice) {
	if len(dom.notices) < maxNotices {
		dom.notices = append(dom.notices, n)
	}
}

// Notices gives what there is to be heard of since the last call.
func (dom *Domain) Notices() []Notice {
	all := dom.notices
	dom.notices = nil
	return all
}

// warn keeps a warning, and gives notice of it when it is new, or comes again
// after a while.
func (dom *Domain) warn(now Time, n Notice) {
	id := Notice{Kind: n.Kind, Key: n.Key, Group: n.Group, Class: n.Class}
	w := dom.warnings[id]
	if w == nil {
		if len(dom.warnings) >= maxWarnings {
			return
		}
		w = &Warning{Notice: n, First: now}
		dom.warnings[id] = w
		dom.notice(n)
	} else if now > w.Last.Add(time.Minute) {
		dom.notice(n)
	}
	w.Last, w.Text = now, n.Text
	w.Count++
}

// warned lists the warnings, the latest first.
func (dom *Domain) warned() (all []Warning) {
	for _, w := range dom.warnings {
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(b.Last, a.Last), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Class, b.Class))
	})
	return all
}

package pool

// What answers give away of how the keys really belong together: limits do not
// add up inside one organisation, whatever the configuration says.

import (
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const maxOrganization = 128 // bytes of a name that are kept

// belongs takes note of the organisation that an answer names for a key.
func (p *Pool) belongs(now Time, k *key, organization string) {
	organization = strings.ToValidUTF8(organization[:min(len(organization), maxOrganization)], "") // not half a letter
	if organization == "" || k.organization == organization {
		return
	}
	k.organization = organization
	for _, o := range p.keys {
		switch {
		case o == k || o.organization == "":
		case o.group == k.group && o.organization != organization:
			p.warn(now, Notice{Kind: SplitOrganization, Group: k.group.name, Text: fmt.Sprintf(
				"keys %q and %q are configured as one quota group, but belong to the organisations %q and %q: as groups of their own, each would have its limits",
				o.id, k.id, o.organization, organization)})
		case o.group != k.group && o.organization == organization:
			p.warn(now, Notice{Kind: SharedOrganization, Group: k.group.name, Text: fmt.Sprintf(
				"quota groups %q and %q belong to one organisation, %q, so their limits do not add up: configure them as one group",
				o.group.name, k.group.name, organization)})
			return
		}
	}
}

// together is how close refusals of all groups are to count as one event.
const together = 10 * time.Second

// allLimited warns if every group of a class has just been refused for want of
// capacity.
func (p *Pool) allLimited(now Time, c *class) {
	if len(p.groups) < 2 {
		return
	}
	for _, g := range p.groups {
		if at := g.accounts[c.index].limitedAt; len(g.keys) > 0 && (at == 0 || at.Add(together) < now) {
			return
		}
	}
	p.warn(now, Notice{Kind: AllRateLimited, Class: c.name, Text: fmt.Sprintf(
		"all %d quota groups were answered 429 within %v: they may share a limit, such as that of one organisation or address, or somebody else uses it up",
		len(p.groups), together)})
}

// sighting is what the provider said of an account's requests at one moment.
type sighting struct {
	at      Time
	used    int64
	total   int64 // that we had granted
	foreign int64 // that others had used for sure
	votes   int   // for somebody else's grants being counted here
	with    *group
}

const (
	sightEvery = 5 * time.Second
	sightVotes = 4
	sightMost  = 16 // groups that are compared with
)

// sight compares what the provider counts with what we granted: if what others
// use of one group is, time after time, what we grant of another, the two are one.
func (p *Pool) sight(now Time, a *account, w *provider.Window) {
	b := a.bucket(w)
	if b == nil || b.history == nil || w.Dimension != provider.Requests || w.Remaining < 0 || w.Limit != b.limit || len(p.groups) < 2 {
		return
	}
	if _, ok := b.meter.(*refilling); !ok {
		return
	}
	s := &a.sighting
	if now < s.at.Add(sightEvery) && s.at > 0 {
		return
	}
	last := *s
	s.at, s.used, s.total, s.foreign = now, w.Limit-w.Remaining, b.history.total, b.foreign
	refilled := mulDiv(b.limit, int64(now.Sub(last.at)), int64(b.window))
	if last.at == 0 || now > last.at.Add(time.Minute) {
		s.votes = 0
		return
	}
	if b.foreign == last.foreign || last.used <= refilled { // it may be that what is late, or refilled less, is all there is to it
		return
	}
	others := s.used - last.used - (s.total - last.total) + refilled
	with := p.grantee(a, w, last.at, others)
	switch {
	case with == nil && others > max(5, b.limit/50):
		s.votes, s.with = 0, nil
	case with != nil && (s.with == nil || s.with == with):
		s.with = with
		if s.votes++; s.votes >= sightVotes {
			p.warn(now, Notice{Kind: MovingTogether, Group: a.group.name, Class: a.class.name, Text: fmt.Sprintf(
				"what remains of quota groups %q and %q moves together: they seem to share one limit; configure them as one group",
				a.group.name, with.name)})
		}
	}
}

// grantee finds the group of which as much was granted since a moment as others
// seem to have used of this account.
func (p *Pool) grantee(a *account, w *provider.Window, since Time, used int64) *group {
	least := max(5, w.Limit/50)
	if used < least {
		return nil
	}
	for i := range min(len(p.groups), sightMost) {
		g := p.groups[(i+int(p.counters.Granted))%len(p.groups)]
		if g == a.group {
			continue
		}
		b := g.accounts[a.class.index].bucket(w)
		if b == nil || b.history == nil {
			continue
		}
		n, ok := b.history.since(since)
		if ok && n >= least && used > n*2/3 && used < n*3/2 {
			return g
		}
	}
	return nil
}

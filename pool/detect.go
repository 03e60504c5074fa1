package pool

// What answers reveal about how the keys really belong together. Limits do not add up
// inside one organisation, whatever the configuration says.

import (
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const maxOrganization = 128 // bytes of a name that are kept

// detect takes note of the organisation that an answer names for a key.
func (dom *Domain) detect(now Time, k *key, s *provider.Signal) {
	if s.Cached { // it may be another key's answer
		return
	}
	organization := strings.ToValidUTF8(s.Organization[:min(len(s.Organization), maxOrganization)], "") // no half letter
	if organization == "" || k.organization == organization {
		return
	}
	k.organization = organization
	dom.change(k)
	for _, o := range dom.keys {
		switch {
		case o == k || o.organization == "":
		case o.group == k.group && o.organization != organization:
			dom.warn(now, Event{Kind: SplitOrganization, Group: k.group.name, Text: fmt.Sprintf(
				"keys %q and %q are configured as one quota group, but belong to the organisations %q and %q: as groups of their own, each would have its limits",
				o.id, k.id, o.organization, organization)})
		case o.group != k.group && o.organization == organization:
			dom.warn(now, Event{Kind: SharedOrganization, Group: k.group.name, Text: fmt.Sprintf(
				"quota groups %q and %q belong to one organisation, %q, so their limits do not add up: configure them as one group",
				o.group.name, k.group.name, organization)})
			return
		}
	}
}

// together is how close refusals of all groups are to count as one event.
const together = 10 * time.Second

// allLimited warns if every group with keys, of several, has just been refused calls of a
// class for lack of capacity.
func (dom *Domain) allLimited(now Time, c *class) {
	groups := 0
	for _, g := range dom.groups {
		if len(g.keys) == 0 {
			continue
		}
		if at := g.accounts[c.index].limitedAt; at == 0 || at.Add(together) < now {
			return
		}
		groups++
	}
	if groups < 2 {
		return
	}
	dom.warn(now, Event{Kind: AllRateLimited, Class: c.name, Text: fmt.Sprintf(
		"all %d quota groups were answered 429 within %v: they may share a limit, such as that of one organisation or address, or somebody else uses it up",
		groups, together)})
}

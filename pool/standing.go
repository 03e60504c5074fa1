package pool

// How far a speaker's statement goes: whom it may keep out, and for how long.

import "time"

const (
	// trust is how long the statements of one speaker may keep others out in all, while nobody
	// agrees; it comes back at a second a minute.
	trust       = 10 * time.Second
	trustRefill = 60
	// leastTrust is how much of it a statement needs that is to keep others out at all.
	leastTrust = time.Second
	// A speaker that was refused sourAfter times in a row, and had no good answer for
	// sourFor while another had one, is not believed: what it meets is not the provider.
	sourAfter = 3
	sourFor   = time.Minute
	// misledFor is how long a witness of something false sees for itself alone, at first.
	misledFor = 10 * time.Minute
	// maxStandings bounds the identities, and maxInstances the instances of each, that are
	// remembered.
	maxStandings = 10_000
	maxInstances = 256
)

// eye sees what a provider answers: one process of an identity. Statements are an identity's;
// its instances count as several only while there is nobody else.
type eye struct{ holder, instance string }

// anybody is whoever may first. No identity has this name.
var anybody = eye{holder: "\x01"}

// everyone is the identity of an eye, whatever its instance.
func (e eye) everyone() eye { return eye{holder: e.holder} }

func (l *lease) eye() eye { return eye{l.by.holder.name, l.by.name} }

func (a *Ask) eye() eye { return eye{a.Holder, a.Instance} }

// standing is what is known of a speaker.
type standing struct {
	refused int           // in a row
	goodAt  Time          // the last good answer; long ago if there was none
	heardAt Time          // the last answer
	spent   time.Duration // of its trust, as of spentAt
	spentAt Time
	misled  Time // until then its good answers free only itself
	times   int  // how often it was
	of      map[string]*standing
}

// speakers are all that have spoken lately.
type speakers struct {
	known map[string]*standing
	good  [4]struct { // the last that had good answers, the latest first
		eye
		at Time
	}
}

// of returns the standing of a speaker: of an identity, if the instance is empty.
func (s *speakers) of(now Time, e eye) *standing {
	if s.known == nil || len(s.known) >= maxStandings && s.known[e.holder] == nil {
		s.known = map[string]*standing{}
	}
	st := s.known[e.holder]
	if st == nil {
		st = newStanding(now)
		s.known[e.holder] = st
	}
	if e.instance == "" {
		return st
	}
	i := st.of[e.instance]
	if i == nil {
		if st.of == nil || len(st.of) >= maxInstances {
			st.of = map[string]*standing{}
		}
		i = newStanding(now)
		st.of[e.instance] = i
	}
	return i
}

func newStanding(now Time) *standing {
	return &standing{goodAt: -Never / 4, heardAt: now, spentAt: now}
}

// refused takes note of an answer that blames anything but the request.
func (s *speakers) refused(now Time, e eye) {
	for _, e := range [...]eye{e.everyone(), e} {
		st := s.of(now, e)
		st.refused++
		st.heardAt = now
	}
}

// answered takes note of a good answer. It returns whether the speaker may be believed again.
func (s *speakers) answered(now Time, e eye) (again bool) {
	for _, e := range [...]eye{e.everyone(), e} {
		st := s.of(now, e)
		again = again || st.refused >= sourAfter
		st.refused, st.goodAt, st.heardAt = 0, now, now
	}
	i := 0
	for i < len(s.good)-1 && s.good[i].eye != e {
		i++
	}
	copy(s.good[1:i+1], s.good[:i])
	s.good[0].eye, s.good[0].at = e, now
	return again
}

// credible reports whether a speaker meets the provider, as far as is known.
func (s *speakers) credible(now Time, e eye) bool { return s.credibleAt(now, e) <= now }

// credibleAt returns when a speaker will be credible if nothing else is heard until then.
func (s *speakers) credibleAt(now Time, e eye) (at Time) {
	st := s.known[e.holder]
	if st != nil && e.instance != "" {
		st = st.of[e.instance]
	}
	at = now
	if st == nil || st.refused < sourAfter || now.Sub(st.goodAt) < sourFor {
		return at
	}
	for _, g := range s.good {
		if g.holder != "" && (g.holder != e.holder || e.instance != "" && g.instance != e.instance) {
			at = max(at, g.at.Add(sourFor))
		}
	}
	return at
}

// seesForAllAt returns when the good answers of a speaker will show others anything.
func (s *speakers) seesForAllAt(now Time, e eye) (at Time) {
	at = s.credibleAt(now, e.everyone())
	if st := s.known[e.holder]; st != nil {
		at = max(at, st.misled)
	}
	return at
}

// misled reports whether a speaker has lately contradicted what was so.
func (s *speakers) misled(now Time, e eye) bool {
	st := s.known[e.holder]
	return st != nil && now < st.misled
}

// mislead takes note that a speaker has contradicted what was so.
func (s *speakers) mislead(now Time, e eye) {
	st := s.of(now, e.everyone())
	if now < st.misled {
		return
	}
	st.misled = now.Add(misledFor << min(st.times, 6))
	st.times++
}

// trustLeft returns for how long a speaker's statement alone may keep others out.
func (s *speakers) trustLeft(now Time, e eye) time.Duration {
	st := s.of(now, e)
	st.spent = max(0, st.spent-now.Sub(st.spentAt)/trustRefill)
	st.spentAt = now
	return trust - st.spent
}

// pay takes off for how long a speaker's statement alone has kept others out.
func (s *speakers) pay(now Time, e eye, d time.Duration) {
	s.trustLeft(now, e)
	s.of(now, e).spent += max(0, d)
}

// alone reports whether no other identity is about whose statement counts.
func (dom *Domain) alone(now Time, holder string) bool {
	return !dom.anyOther(now, func(name string) bool { return name == holder })
}

// anyOther reports whether an identity is about, credible, and not among some: it has leases
// or waits for one, or has had an answer within a minute.
func (dom *Domain) anyOther(now Time, among func(string) bool) bool {
	counts := func(name string) bool {
		e := eye{holder: name}
		return !among(name) && dom.speakers.credible(now, e) && !dom.speakers.misled(now, e)
	}
	for k, h := range dom.holders { // the first decides
		if h.open+h.waiting > 0 && counts(k.name) {
			return true
		}
	}
	for name, st := range dom.speakers.known {
		if now.Sub(st.heardAt) < time.Minute && counts(name) {
			return true
		}
	}
	return false
}

// speaker returns whose trust counts: an identity's, or an instance's while nobody else is
// about.
func (dom *Domain) speaker(now Time, e eye) eye {
	if dom.alone(now, e.holder) {
		return e
	}
	return e.everyone()
}

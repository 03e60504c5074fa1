package pool

// Disputes: what one speaker says keeps something out of use, until others have seen it.

import (
	"cmp"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// A kind is what a dispute is about. Only refusals of one kind agree with each other.
type kind uint8

const (
	tooFast kind = iota
	noQuota
	forbidden
	badKey
	overloaded
	figure // no refusal: what an answer states of a limit; see figure.go
	numKinds
)

// kinds has what is guessed where the provider states no wait: at first, after that (or
// twice the last, if that is longer), and at most. Where third is set, two who agree on a
// guess call for a third, too, because the price of an error is high.
var kinds = [numKinds]struct {
	first, next, most time.Duration
	third             bool
}{
	tooFast:    {first: time.Second, most: time.Minute},
	noQuota:    {first: 10 * time.Minute, most: time.Hour, third: true}, // somebody has to act
	forbidden:  {first: 10 * time.Minute, most: time.Hour, third: true},
	badKey:     {first: 5 * time.Second, next: 10 * time.Minute, most: time.Hour, third: true},
	figure:     {third: true},
	overloaded: {first: time.Second, most: 2 * time.Second}, // it ends for all at once, and a probe costs nobody anything
}

// longer returns the wait that is guessed after another one, or after none.
func (k kind) longer(last time.Duration) time.Duration {
	if last == 0 {
		return kinds[k].first
	}
	return min(max(2*last, kinds[k].next), kinds[k].most)
}

const (
	// patience is how long the answer to a probe is waited for.
	patience = 5 * time.Second
	// inFlight is how long answers to older leases are waited for before somebody probes.
	inFlight = time.Second
	// readSoon is how long answers are waited for whose headers may tell about a figure.
	readSoon = 3 * time.Second
	// What is confirmed is probed after lateProbe, then after lateGrowth times as long, up
	// to lateMost.
	lateProbe  = 30 * time.Second
	lateGrowth = 20
	lateMost   = 6000 * time.Second
	// A dispute that is contradicted within soon was about nothing; later, it has been so.
	soon = time.Minute
	// maxVoices bounds the voices of a dispute, and those that are free.
	maxVoices = 64
)

// A return is slow: slowLeases leases in the first second, twice as many by the end of the
// next, and after slowSeconds as many as there is room for.
const (
	slowLeases  = 4
	slowSeconds = 8
)

// A voice is a speaker that has been refused. Its own statement binds it.
type voice struct {
	eye
	until   Time
	said    Time          // of its last refusal: one of an older lease says nothing new
	backoff time.Duration // the wait that was guessed last for it
	counts  bool          // its statement binds others, too
}

// A dispute keeps something out of use because somebody was refused. Each speaker that was
// is bound by its own statement. Others are bound while the dispute is open, until one of them
// may probe. If that one is refused, it agrees, and the dispute is seconded, then confirmed. If
// it has a good answer, it contradicts: the others return slowly, and the statement binds only
// those who made it. When the time is over, one lease probes: after a good answer the others
// return, a refusal begins another round.
type dispute struct {
	kind     kind
	only     provider.Dimension // asks for none of it may pass; NumDimensions: no ask may
	size     int64              // the smallest ask that was refused, in that dimension
	class    provider.Class     // of the refusal that began the round
	operator bool               // it does not pass by itself: somebody has to act
	guessed  bool               // the provider has stated no wait

	voices   []voice
	free     []eye // those that had a good answer, and have not been refused since
	verdict  verdict
	private  bool // it binds its voices alone
	sole     bool // nobody else could see for itself when the last voice spoke
	recorded bool // it is about a fixed window of a predecessor

	first     eye     // the speaker that began the round
	since     Time    // when the round began
	lastSince Time    // when the one before it began
	said      Time    // when the last news came: a refusal of an older lease is none
	newsFrom  LeaseID // the lease that brought it
	until     Time    // for all who are no voices
	backoff   time.Duration
	rounds    int // that ended with another refusal

	ready    bool    // another speaker had a good answer to an older lease
	probe    LeaseID // whose answer is waited for; 0 if there is none
	probedAt Time
	opensAt  Time          // when the provider has said that there is room again; 0 if it has not
	trial    trial         // of a wait that is too long for what it is about
	lateAt   Time          // when a confirmed dispute is probed next
	lateGap  time.Duration // between the last two such probes
	passed   int64         // probes of a confirmed figure in a row

	returnAt  Time  // when the others began to return; 0 if they have not
	returned  int64 // leases since then
	pace      int64 // leases in the first second of the return
	witnesses []eye // the speakers whose good answers contradicted
}

// A verdict is how far others have seen for themselves.
type verdict uint8

const (
	open      verdict = iota // one speaker has said so
	seconded                 // another agrees, and a third may probe
	confirmed                // it is so
)

// active reports whether the dispute keeps out others than those who have said so.
func (d *dispute) active(now Time) bool { return !d.private && d.returnAt == 0 && d.until > now }

// allBack reports whether the return of the others is over.
func (d *dispute) allBack(now Time) bool {
	return d.returnAt > 0 && now >= d.returnAt.Add(slowSeconds*time.Second)
}

// gone reports whether nothing is left of the dispute. How long a speaker had to wait last is
// remembered for as long again, so that whoever is always refused waits longer each time.
func (d *dispute) gone(now Time) bool {
	return (d.private || d.allBack(now)) && !slices.ContainsFunc(d.voices, func(v voice) bool { return v.until.Add(v.backoff) > now })
}

// concerns reports whether an ask has to wait for the dispute.
func (d *dispute) concerns(ask *provider.Amounts) bool {
	return d.only >= provider.NumDimensions || ask[d.only] > 0
}

// voice returns the voice of a speaker, or nil if it has not said so. Another instance of its
// identity speaks for it, unless there is nobody else to ask than instances.
func (dom *Domain) voice(d *dispute, e eye) *voice {
	i := slices.IndexFunc(d.voices, func(v voice) bool { return v.eye == e })
	if i < 0 {
		i = slices.IndexFunc(d.voices, func(v voice) bool { return v.holder == e.holder })
		if i >= 0 && d.voices[i].instance != "" && dom.alone(dom.now, e.holder) {
			return nil
		}
	}
	if i < 0 {
		return nil
	}
	return &d.voices[i]
}

// opens returns when an ask of a speaker may pass. If byEvent is true, an answer that is
// waited for may bring that sooner. A nil ask is for some of everything.
func (dom *Domain) opens(d *dispute, ask *provider.Amounts, e eye) (at Time, byEvent bool) {
	now := dom.now
	if d.gone(now) {
		return now, false
	}
	v := (*voice)(nil)
	if e != anybody && (d.kind != figure || d.sole) { // a figure may have become another than the one that was stated
		v = dom.voice(d, e)
	}
	switch {
	case slices.Contains(d.free, e), e == anybody && len(d.free) > 0:
		return now, false
	case v != nil && v.until > now && (d.private || len(d.witnesses) > 0): // others know better, so it may probe for itself
		at = max(v.said, d.returnAt).Add(lateProbe)
		if d.probe != 0 {
			at = max(at, d.probedAt.Add(patience))
		}
		return max(now, min(at, v.until)), d.probe != 0
	case d.private, d.allBack(now):
		return now, false
	case d.returnAt > 0:
		n := now.Sub(d.returnAt) / time.Second
		if d.returned < d.pace<<n {
			return now, false
		}
		return d.returnAt.Add((n + 1) * time.Second), false
	case v != nil && d.guessed && d.verdict != open:
		at = max(v.until, d.until)
	case v != nil && v.until > now:
		at = d.bindsUntil(v, ask)
	default:
		at = d.probeAt()
		if d.verdict != open && d.ofOther(e) {
			at = min(d.until, d.since.Add(inFlight))
		}
		if e != anybody { // what one sees for itself alone, it sees after the others
			at = min(d.until, max(at, min(dom.speakers.seesForAllAt(now, e), at.Add(patience))))
			break
		}
		for i := range d.voices {
			at = min(at, d.bindsUntil(&d.voices[i], ask))
		}
	}
	if d.probe != 0 {
		return max(now, at, d.probedAt.Add(patience)), true
	}
	return max(now, at), false
}

// ofOther reports whether all who have said so are instances of one identity, and the speaker is
// of another. While there was nobody else they counted as several.
func (d *dispute) ofOther(e eye) bool {
	return len(d.voices) > 0 && d.voices[0].holder != e.holder &&
		!slices.ContainsFunc(d.voices, func(v voice) bool { return v.holder != d.voices[0].holder })
}

// bindsUntil returns until when its own statement binds a voice.
func (d *dispute) bindsUntil(v *voice, ask *provider.Amounts) Time {
	at := min(v.until, d.trial.opens(ask))
	if d.opensAt > 0 {
		at = min(at, d.opensAt)
	}
	return at
}

// probeAt returns when a speaker that is no voice may probe.
func (d *dispute) probeAt() Time {
	switch {
	case d.verdict == confirmed:
		return min(d.until, d.lateAt)
	case d.kind == figure:
		return min(d.until, d.since.Add(readSoon))
	case d.verdict == seconded, d.ready && !d.guessed:
		return min(d.until, d.said)
	}
	return min(d.until, d.since.Add(inFlight))
}

// granted takes note of a lease: it is a probe, or one of the slow return.
func (dom *Domain) granted(now Time, d *dispute, l *lease) {
	switch e := l.eye(); {
	case slices.Contains(d.free, e):
	case d.returnAt > 0:
		d.returned++
	case d.private && dom.voice(d, e) == nil:
	default:
		d.probe, d.probedAt = l.id, now
		if d.verdict == confirmed && now >= d.lateAt && now < d.until {
			d.lateGap = min(max(lateGrowth*d.lateGap, lateGrowth*lateProbe), lateMost)
			d.lateAt = now.Add(d.lateGap)
		}
	}
}

// refused takes in a refusal of a lease.
func (dom *Domain) refused(now Time, d *dispute, l *lease, s *provider.Signal) {
	news, fresh := d.isNews(l), false // fresh: a round begins
	switch {
	case dom.standsAgain(now, d, l, s):
		for _, w := range d.witnesses {
			dom.speakers.mislead(now, w)
		}
		d.returnAt, d.returned, d.witnesses = 0, 0, nil
	case d.returnAt > 0 && !news: // it is from before the others returned
		return
	case d.allBack(now): // what is left binds its voices alone
		for i := range d.voices {
			d.voices[i].counts = false
		}
		d.returnAt, d.returned, d.witnesses, d.private, d.verdict = 0, 0, nil, true, open
	case d.returnAt > 0:
		*d = dispute{kind: d.kind}
		fresh = true
	case d.voices == nil && d.until == 0:
		fresh = true
	case now >= d.until && !d.private:
		dom.nextRound(now, d, l.eye(), news)
		fresh = true
	}
	if d.probe == l.id {
		d.probe = 0
	}
	dom.say(now, d, l, s, news, fresh)
}

// isNews reports whether a refusal of a lease says anything new: the lease was granted since
// the last that did. Of a suspect key, another lease's refusal is news in any case.
func (d *dispute) isNews(l *lease) bool {
	return l.granted >= d.said || d.kind == badKey && d.backoff <= kinds[badKey].first && l.id != d.newsFrom
}

// standsAgain reports whether a refusal shows that those were misled who contradicted: it
// is another credible speaker's, of a lease of the return.
func (dom *Domain) standsAgain(now Time, d *dispute, l *lease, s *provider.Signal) bool {
	e := l.eye()
	return len(d.witnesses) > 0 && l.granted >= d.returnAt && !d.allBack(now) &&
		(s.Source != provider.NotStated || kinds[d.kind].third) &&
		dom.voice(d, e) == nil && !slices.Contains(d.witnesses, e) && dom.speakers.credible(now, e.everyone())
}

// nextRound prepares a dispute whose time is over for a refusal that begins it anew.
func (dom *Domain) nextRound(now Time, d *dispute, e eye, news bool) {
	if d.verdict == open {
		dom.pay(d, min(now, d.until))
	}
	d.voices = slices.DeleteFunc(d.voices, func(v voice) bool { return v.eye != e && d.lapsed(now, &v) })
	if news {
		d.rounds++
	}
	d.verdict, d.ready, d.lastSince = open, false, d.since
}

// lapsed reports whether what a voice has said supports no further round: the wait that it
// stated is over, or it has not spoken in the last two rounds, or it spoke of a figure long ago.
func (d *dispute) lapsed(now Time, v *voice) bool {
	switch {
	case d.kind == figure:
		return now.Sub(d.said) >= soon
	case d.guessed: // such waits grow from round to round
		return v.said < d.lastSince
	}
	return v.until <= now
}

// say adds what a refused speaker says to a dispute, or to what it has said before.
func (dom *Domain) say(now Time, d *dispute, l *lease, s *provider.Signal, news, fresh bool) {
	e := l.eye()
	v := dom.voice(d, e)
	d.describe(now, l, s, fresh)
	d.free = slices.DeleteFunc(d.free, func(f eye) bool { return f == e })
	others := dom.others(now, d, e)
	if v == nil {
		if len(d.voices) >= maxVoices {
			return
		}
		d.voices = append(d.voices, voice{eye: e, said: -1})
		v = &d.voices[len(d.voices)-1]
	}
	if fresh || d.private || v.said < 0 {
		v.counts = dom.speakers.credible(now, dom.speaker(now, e)) && (!others || dom.speakers.trustLeft(now, dom.speaker(now, e)) >= leastTrust)
	}
	if news || l.granted >= v.said {
		last := v.backoff
		v.backoff = d.kind.longer(last)
		if d.private { // others have good answers, and its refusals cost them requests
			v.backoff = max(v.backoff, min(2*last, time.Minute))
		}
	}
	if news {
		agreed := slices.ContainsFunc(d.voices, func(o voice) bool { return o.counts && o.eye != e }) || !others
		suspect := d.kind == badKey && d.backoff == kinds[badKey].first
		if d.backoff == 0 || suspect && agreed || fresh && (agreed || d.first != e) {
			d.backoff = d.kind.longer(d.backoff)
		}
		d.said, d.newsFrom = now, l.id
	}
	if fresh {
		d.first = e
	}
	v.said = now
	if s.Source == provider.NotStated {
		v.until = max(v.until, now.Add(max(v.backoff, d.backoff)))
	} else {
		v.until = max(v.until, now.Add(max(s.Wait, tooShort(d.rounds))))
		d.guessed = false
		d.trial.after(now, l, s)
	}
	dom.judge(now, d, others)
}

// describe takes in what a refusal is about. If it begins a round, or nobody else is bound
// so far, the dispute is about that; else it is about whatever all refusals are about.
func (d *dispute) describe(now Time, l *lease, s *provider.Signal, fresh bool) {
	only, size := provider.NumDimensions, int64(0)
	if r := s.Refused; r != nil && r.Dimension < only && l.reserved[r.Dimension] > 0 { // a lease without any of it was refused all the same
		only, size = r.Dimension, l.reserved[r.Dimension]
	}
	if fresh || d.private {
		d.since, d.class, d.only, d.size, d.guessed, d.operator = now, s.Class, only, size, true, false
		d.free, d.lateGap = nil, 0
	}
	if fresh {
		d.trial = trial{}
	}
	if d.only != only {
		d.only = provider.NumDimensions
	}
	d.size = min(d.size, size)
	d.operator = d.operator || s.Operator && s.Wait == 0
}

// tooShort returns how long a wait is at least after so many rounds: the stated ones were
// too short.
func tooShort(rounds int) time.Duration {
	if rounds == 0 {
		return 0
	}
	return min(time.Second<<min(rounds-1, 6), time.Minute)
}

// A trial is of a wait that is longer than every window that it can be about: an ask for less
// than was refused tries after that window.
type trial struct {
	at    Time          // 0 if there is none
	gap   time.Duration // since the last refusal
	in    provider.Dimension
	below int64
}

// opens returns when an ask may try. A nil ask is a small one.
func (t *trial) opens(ask *provider.Amounts) Time {
	if t.at > 0 && (ask == nil || ask[t.in] < t.below) {
		return t.at
	}
	return Never
}

// after takes in a refusal that states a wait.
func (t *trial) after(now Time, l *lease, s *provider.Signal) {
	window := time.Duration(0) // the longest that the refusal can be about
	for _, b := range l.buckets {
		if l.reserved[b.Dimension()] > 0 {
			window = max(window, b.Window())
		}
	}
	if s.Refused != nil && s.Refused.Length > 0 {
		window = s.Refused.Length
	}
	if s.Class != provider.RateLimited || window == 0 || s.Wait <= window {
		return
	}
	last := *t
	t.gap = min(max(window, 2*t.gap), s.Wait)
	t.at = now.Add(t.gap)
	t.in, t.below = provider.Requests, 0
	for d, n := range l.reserved {
		if d := provider.Dimension(d); d != provider.Concurrency && n > t.below && (s.Refused == nil || s.Refused.Dimension >= provider.NumDimensions || s.Refused.Dimension == d) {
			t.in, t.below = d, n
		}
	}
	if last.at > 0 && last.in == t.in {
		t.below = min(t.below, last.below) // less than the least
	}
}

// judge decides how far the voices of a dispute bind others. others reports whether somebody
// else could see for itself.
func (dom *Domain) judge(now Time, d *dispute, others bool) {
	var ends []Time // of the statements that count, the longest first
	for _, v := range d.voices {
		if v.counts {
			ends = append(ends, v.until)
		}
	}
	slices.SortFunc(ends, func(a, b Time) int { return cmp.Compare(b, a) })
	before := d.verdict
	d.sole = !others
	d.private = len(ends) == 0
	switch {
	case d.private:
		d.verdict, d.until = open, now
		return
	case len(ends) >= 3, len(ends) == 2 && (!others || d.guessed && !kinds[d.kind].third):
		d.verdict = confirmed
	case len(ends) == 2:
		d.verdict = seconded
	default:
		d.verdict = open
	}
	switch {
	case len(ends) == 1 && !others:
		d.until = ends[0]
	case len(ends) == 1: // as long as its speaker is trusted
		speaker := d.voices[slices.IndexFunc(d.voices, func(v voice) bool { return v.counts })].eye
		d.until = min(ends[0], d.since.Add(dom.speakers.trustLeft(now, dom.speaker(now, speaker))))
		if d.guessed {
			d.until = min(d.until, d.since.Add(d.backoff))
		}
	case d.guessed:
		d.until = max(d.until, now.Add(d.backoff))
	default: // of the longest statement, what exceeds the second is one speaker's statement alone
		d.until = min(ends[0], ends[1].Add(trust))
	}
	if d.verdict == confirmed && before != confirmed {
		d.lateAt, d.lateGap = now.Add(lateProbe), 0
	}
}

// answered takes in a good answer. It returns whether anybody may pass who might not before.
func (dom *Domain) answered(now Time, d *dispute, l *lease) (opened bool) {
	e := l.eye()
	v := dom.voice(d, e)
	switch {
	case !d.concerns(&l.reserved):
		return false
	case d.returnAt > 0: // a speaker whose statement was contradicted takes it back
		before := len(d.voices)
		d.voices = slices.DeleteFunc(d.voices, func(o voice) bool { return v != nil && o.eye == v.eye && l.granted >= o.said })
		return len(d.voices) < before
	case d.only < provider.NumDimensions && l.reserved[d.only] < d.size && v == nil: // a larger ask may be refused
		return false
	case d.private && v == nil:
		return false
	case now >= d.until && !d.private: // the time is over, and nothing is shown of before
		if l.granted < d.said {
			return false
		}
		if d.verdict == open {
			until := d.until
			if d.kind == figure { // others were kept out until one had passed
				until = now
			}
			dom.pay(d, until)
		}
		d.beginReturn(now, slowLeases)
		return true
	case v != nil && l.granted < v.said:
		return false
	case v == nil && l.granted < d.since: // it shows nothing, but a probe could
		opened, d.ready = !d.ready, true
		return opened
	}
	if d.probe == l.id {
		d.probe = 0
	}
	if v != nil {
		dom.takeBack(now, d, v, e)
	} else {
		dom.contradict(now, d, e)
	}
	return true
}

// takeBack takes in that a speaker has had a good answer since it was refused. If nobody
// else's statement counts, the others return; else it is free.
func (dom *Domain) takeBack(now Time, d *dispute, v *voice, e eye) {
	said, counted := v.eye, v.counts
	d.voices = slices.DeleteFunc(d.voices, func(o voice) bool { return o.eye == said })
	switch {
	case !counted:
	case slices.ContainsFunc(d.voices, func(o voice) bool { return o.counts }):
		d.free = append(d.free, e)
		dom.judge(now, d, true)
	default:
		dom.speakers.pay(now, dom.speaker(now, e), now.Sub(d.since))
		d.beginReturn(now, slowLeases)
	}
}

// contradict takes in the good answer of a speaker that is no voice. It is free itself, and
// unless it has been misled, the others return.
func (dom *Domain) contradict(now Time, d *dispute, e eye) {
	if len(d.free) < maxVoices && !slices.Contains(d.free, e) {
		d.free = append(d.free, e)
	}
	if dom.speakers.misled(now, e) {
		return
	}
	pace := int64(slowLeases)
	if len(d.voices) > 1 { // several against one
		pace = 1
	}
	if now.Sub(d.since) < soon {
		dom.pay(d, now)
	} else { // it has been so, and is over for its voices, too
		d.voices = nil
	}
	d.beginReturn(now, pace)
	d.witnesses = append(d.witnesses, e)
}

// beginReturn lets the others return slowly, so many in the first second.
func (d *dispute) beginReturn(now Time, pace int64) {
	d.returnAt, d.returned, d.pace = max(now, 1), 0, pace
	d.probe, d.backoff, d.rounds, d.witnesses, d.operator, d.trial = 0, 0, 0, nil, false, trial{}
}

// pay takes off the trust of the voices for how long they have kept others out.
func (dom *Domain) pay(d *dispute, until Time) {
	for _, v := range d.voices {
		if v.counts {
			dom.speakers.pay(dom.now, dom.speaker(dom.now, v.eye), until.Sub(d.since))
		}
	}
}

// others reports whether somebody else could see for itself: a credible identity that is
// none of the voices, nor the speaker's.
func (dom *Domain) others(now Time, d *dispute, e eye) bool {
	return dom.anyOther(now, func(name string) bool {
		return name == e.holder || slices.ContainsFunc(d.voices, func(v voice) bool { return v.holder == name })
	}) || dom.alone(now, e.holder) && dom.otherInstances(now, d, e)
}

// otherInstances reports whether another instance of a speaker's identity could see for
// itself.
func (dom *Domain) otherInstances(now Time, d *dispute, e eye) bool {
	st := dom.speakers.known[e.holder]
	if st == nil {
		return false
	}
	for name, i := range st.of {
		o := eye{e.holder, name}
		if name != e.instance && now.Sub(i.heardAt) < time.Minute && dom.speakers.credible(now, o) &&
			!slices.ContainsFunc(d.voices, func(v voice) bool { return v.eye == o }) {
			return true
		}
	}
	return false
}

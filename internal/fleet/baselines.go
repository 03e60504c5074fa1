package fleet

import (
	"net/http"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
)

// What people do without a broker, as plainly as they do it. All of them know the
// limits, drop a key that is not accepted, obey Retry-After, and back off.

// backoff is how long a process pauses after its nth refusal.
func (r *run) backoff(tries int, stated time.Duration) time.Duration {
	d := min(500*time.Millisecond<<min(tries-1, 6), 20*time.Second)
	d = d/2 + time.Duration(r.chance.Float64()*float64(d))
	return max(d, stated+time.Duration(r.chance.Float64()*float64(250*time.Millisecond)))
}

// retry pauses after a refusal, and begins again if there is time left.
func (r *run) retry(s Strategy, q *request, a *answer) {
	var pause time.Duration
	if a.status != http.StatusUnauthorized {
		pause = r.backoff(q.tries, a.signal.Wait)
	}
	r.retryAfter(s, q, pause)
}

func (r *run) retryAfter(s Strategy, q *request, pause time.Duration) {
	if r.now+pause > q.until {
		r.at(q.until, func() { r.fail(q) })
		return
	}
	r.after(pause, func() { s.Begin(q) })
}

// process is what one member knows.
type process struct {
	model string
	dead  map[*credential]bool
	next  int                           // for turns
	rest  map[*credential]time.Duration // until then
	free  map[*credential]float64       // by its last headers
	part  map[*credential][]*part       // of the limits
}

type processes map[*member]*process

func (p processes) of(m *member) *process {
	if p[m] == nil {
		p[m] = &process{
			model: m.Model,
			dead:  map[*credential]bool{}, next: m.number,
			rest: map[*credential]time.Duration{}, free: map[*credential]float64{}, part: map[*credential][]*part{},
		}
	}
	return p[m]
}

// alive lists the keys that a process may use.
func (r *run) alive(p *process) (keys []*credential) {
	for _, k := range r.upstream.keys {
		if !p.dead[k] {
			keys = append(keys, k)
		}
	}
	return keys
}

// random takes any key.
type random struct {
	*run
	all processes
}

func newRandom(r *run) (Strategy, error) { return &random{r, processes{}}, nil }

func (s *random) Begin(q *request) {
	keys := s.alive(s.all.of(q.service))
	if len(keys) == 0 {
		s.fail(q)
		return
	}
	s.send(q, keys[s.chance.IntN(len(keys))])
}

func (s *random) Answered(q *request, a *answer) {
	s.answered(s, q, a)
}

func (s *random) Finished(*request) {}

// answered drops a key that is not accepted, and tries again after a refusal, by a
// strategy that is this one or begins with it.
func (s *random) answered(by Strategy, q *request, a *answer) {
	if a.status == http.StatusUnauthorized {
		s.all.of(q.service).dead[q.key] = true
	}
	if a.status != http.StatusOK {
		s.retry(by, q, a)
	}
}

// roundRobin takes the keys in turn.
type roundRobin struct{ random }

func newRoundRobin(r *run) (Strategy, error) { return &roundRobin{random{r, processes{}}}, nil }

func (s *roundRobin) Begin(q *request) {
	p := s.all.of(q.service)
	keys := s.alive(p)
	if len(keys) == 0 {
		s.fail(q)
		return
	}
	p.next++
	s.send(q, keys[p.next%len(keys)])
}

func (s *roundRobin) Answered(q *request, a *answer) {
	s.answered(s, q, a)
}

// split gives each process its part of every key's limits, and has it keep to that.
type split struct{ random }

func newSplit(r *run) (Strategy, error) { return &split{random{r, processes{}}}, nil }

// part is one process's part of a limit.
type part struct {
	*sim.TokenBucket
	dimension provider.Dimension
	amount    int64
	begins    time.Duration
}

func (s *split) parts(p *process, k *credential) []*part {
	if all, ok := p.part[k]; ok {
		return all
	}
	n := int64(0) // who calls the same model, with each key
	for _, m := range s.members {
		if m.Model == p.model {
			n += int64(len(k.group.keys))
		}
	}
	all := []*part{}
	for _, l := range s.upstream.dialectLimits(k.group.limits) {
		amount := (l.amount + n - 1) / n // and the window longer, so that the rate is exact
		window := time.Duration(float64(l.window) * float64(amount) * float64(n) / float64(l.amount))
		begins := s.now + time.Duration(s.chance.Float64()*float64(window)) // not all at one moment
		all = append(all, &part{sim.NewTokenBucket(amount, window), l.dimension, amount, begins})
	}
	p.part[k] = all
	return all
}

func (s *split) Begin(q *request) {
	p := s.all.of(q.service)
	need := s.reserved(q)
	best, soonest := (*credential)(nil), sim.Never
	keys := s.alive(p)
	for i := range keys {
		k := keys[(p.next+i)%len(keys)]
		var wait time.Duration
		for _, x := range s.parts(p, k) {
			w := x.Until(s.now, need[x.dimension])
			if w == sim.Never { // more than its part: all of it, and some of the next
				w = x.UntilFull(s.now)
			}
			wait = max(wait, w, x.begins-s.now)
		}
		if wait < soonest {
			best, soonest = k, wait
		}
	}
	p.next++
	switch {
	case best == nil:
		s.fail(q)
	case soonest > 0:
		s.retryAfter(s, q, soonest)
	default:
		for _, x := range s.parts(p, best) {
			x.Charge(s.now, need[x.dimension])
		}
		s.send(q, best)
	}
}

func (s *split) Answered(q *request, a *answer) {
	s.answered(s, q, a)
}

// Finished gives back what was not used, where that is how the provider counts.
func (s *split) Finished(q *request) {
	reserved, used := s.reserved(q), s.reported(q)
	for _, x := range s.parts(s.all.of(q.service), q.key) {
		back := min(reserved[x.dimension]-used[x.dimension], x.amount-x.Remaining(s.now))
		if back > 0 && !s.upstream.dialect.Kept[x.dimension] {
			x.Charge(s.now, -back)
		}
	}
}

// headers takes the key that the process's own last headers say is freest. One that they
// say has no room rests until there should be some.
type headers struct{ random }

func newHeaders(r *run) (Strategy, error) { return &headers{random{r, processes{}}}, nil }

func (s *headers) Begin(q *request) {
	p := s.all.of(q.service)
	var best []*credential
	most, soonest := -1.0, sim.Never
	for _, k := range s.alive(p) {
		if p.rest[k] > s.now {
			soonest = min(soonest, p.rest[k]-s.now)
			continue
		}
		free, known := p.free[k]
		if !known {
			free = 1
		}
		switch {
		case free > most:
			best, most = []*credential{k}, free
		case free == most:
			best = append(best, k)
		}
	}
	switch {
	case len(best) > 0:
		s.send(q, best[s.chance.IntN(len(best))])
	case soonest < sim.Never:
		s.retryAfter(s, q, soonest+time.Duration(s.chance.Float64()*float64(250*time.Millisecond)))
	default:
		s.fail(q)
	}
}

func (s *headers) Answered(q *request, a *answer) {
	p := s.all.of(q.service)
	free, room := 1.0, time.Duration(0)
	need := s.reserved(q)
	for _, w := range a.signal.Windows {
		if w.Aside || w.Limit < 0 || w.Remaining < 0 {
			continue
		}
		free = min(free, float64(w.Remaining)/float64(max(w.Limit, 1)))
		short := need[w.Dimension] - w.Remaining
		switch {
		case short <= 0:
		case w.Kind == provider.Fixed:
			room = max(room, w.Reset)
		default: // as it refills
			room = max(room, time.Duration(float64(short)/float64(max(w.Limit, 1))*float64(w.Length)))
		}
	}
	p.free[q.key], p.rest[q.key] = free, s.now+room
	switch a.status {
	case http.StatusOK:
		return
	case http.StatusUnauthorized:
		p.dead[q.key] = true
	default:
		p.rest[q.key] = s.now + max(room, s.backoff(q.tries, a.signal.Wait))
	}
	s.retryAfter(s, q, 0)
}

// counter counts what each key uses of each window of the clock in one place. What a
// provider counts while it answers is added when the answer is complete, since gateways
// know it no sooner.
type counter struct {
	random
	counts map[quotaOf][]count // one a limit
}

type quotaOf struct {
	*quota
	model string
}

type count struct {
	limited
	nth  int64 // of its windows
	used int64
}

func newCounter(r *run) (Strategy, error) {
	return &counter{random{r, processes{}}, map[quotaOf][]count{}}, nil
}

// of gives the counts of a group for a model as they are now.
func (s *counter) of(group *quota, model string) []count {
	g := quotaOf{group, model}
	if s.counts[g] == nil {
		for _, l := range s.upstream.dialectLimits(g.limits) {
			s.counts[g] = append(s.counts[g], count{limited: l})
		}
	}
	for i := range s.counts[g] {
		c := &s.counts[g][i]
		if nth := int64(s.now / c.window); nth != c.nth {
			c.nth, c.used = nth, 0
		}
	}
	return s.counts[g]
}

func (s *counter) Begin(q *request) {
	s.after(s.hop(q.service), func() {
		need := s.known(q)
		keys := s.alive(s.all.of(q.service))
		if len(keys) == 0 {
			s.fail(q)
			return
		}
		from, next := s.chance.IntN(len(keys)), sim.Never
		for i := range keys {
			k := keys[(from+i)%len(keys)]
			counts := s.of(k.group, q.service.Model)
			wait := s.wait(counts, &need)
			if wait == 0 {
				for i := range counts {
					counts[i].used += need[counts[i].dimension]
				}
				s.after(s.hop(q.service), func() { s.send(q, k) })
				return
			}
			next = min(next, wait)
		}
		s.after(s.hop(q.service), func() {
			s.retryAfter(s, q, next+time.Duration(s.chance.Float64()*float64(time.Second)))
		})
	})
}

// known is what is known before a request is sent.
func (s *counter) known(q *request) provider.Amounts {
	need := s.reserved(q)
	for i := range need {
		if s.upstream.dialect.Held[i] {
			need[i] = 0
		}
	}
	return need
}

// wait is how long it is until the windows without room end.
func (s *counter) wait(counts []count, need *provider.Amounts) (wait time.Duration) {
	for _, c := range counts {
		if c.used+max(need[c.dimension], 1) > c.amount {
			wait = max(wait, time.Duration(c.nth+1)*c.window-s.now)
		}
	}
	return wait
}

func (s *counter) Answered(q *request, a *answer) {
	s.answered(s, q, a)
}

// Finished counts what was really used.
func (s *counter) Finished(q *request) {
	before, used := s.known(q), s.reported(q)
	s.after(s.hop(q.service), func() {
		counts := s.of(q.key.group, q.service.Model)
		for i := range counts {
			c := &counts[i]
			if d := c.dimension; !s.upstream.dialect.Kept[d] && used[d] >= 0 {
				c.used = max(0, c.used+used[d]-before[d])
			}
		}
	})
}

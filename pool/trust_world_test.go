package pool_test

// The world that judges whom the engine believes. A provider with exact accounts serves
// several services through one domain. Most services report what the provider answered;
// a few have a speaker in the provider's stead (trust_speakers_test.go), and the provider
// itself may refuse in truth (trust_provider_test.go). Events happen on virtual time, and a seed
// fixes all of them. The world knows nothing of how the engine judges reports.

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	trustSpan     = 10 * minute // how long a world lasts
	trustPatience = 30 * time.Second
	trustModel    = "m"
	lateReport    = 20 * time.Second
	tokensPerCall = 2000 // by which the limits on tokens exceed those on requests: they never bind
)

// trustDemand is how much the honest services ask for, as a part of the capacity.
type trustDemand float64

const (
	// closedLoop is a closed loop: each worker asks again as soon as it has its answer.
	closedLoop trustDemand = 0
	tight      trustDemand = 0.9 // open loops from here on, by Poisson
	moderate   trustDemand = 0.5
	// trickle is four asks a minute of all services together.
	trickle trustDemand = -4
)

func (d trustDemand) String() string {
	switch d {
	case closedLoop:
		return "saturated"
	case tight:
		return "tight"
	case moderate:
		return "moderate"
	case trickle:
		return "trickle"
	}
	return fmt.Sprintf("demand %g", float64(d))
}

// trustSetting describes a world apart from its speakers. Two worlds of one setting and
// one seed have the same arrivals.
type trustSetting struct {
	Dialect  string
	Demand   trustDemand
	Groups   int
	PerGroup int64 // requests a minute of each group
	Kind     provider.Kind
	Unphased bool // the resets of Fixed windows are not configured
	Headers  bool // every answer states limit, remaining and reset
	Slow     bool // answers take 2 to 40 s instead of 0.2 to 2 s

	Services int // identities
	Workers  int // of each
	// Apart makes one identity of all: each service is then one of its instances.
	Apart bool
	// Crowd is how many workers the first special service has, always in a closed loop
	// and without a pause; 0 if it is a service like the others.
	Crowd int
	// Special is how many services may have speakers of their own. The others are those
	// whose share is judged.
	Special int
	Truths  string // name of the truths that happen
}

// trustPerGroup is how many requests a minute a group has: fewer in the ordinary test, which
// then takes less time.
func trustPerGroup() int64 {
	if allWorlds {
		return 600
	}
	return 300
}

// sixServices is the default: six identities of eight workers each.
func sixServices(d trustDemand) trustSetting {
	return trustSetting{
		Dialect: "anthropic", Demand: d, Groups: 2, PerGroup: trustPerGroup(), Kind: provider.Refilling,
		Services: 6, Workers: 8, Special: 1,
	}
}

// capacity is what the provider serves a second.
func (s *trustSetting) capacity() float64 { return float64(s.PerGroup) * float64(s.Groups) / 60 }

// rate is how many calls a second one service has in an open loop.
func (s *trustSetting) rate() float64 {
	if s.Demand < 0 {
		return -float64(s.Demand) / 60 / float64(s.Services)
	}
	return float64(s.Demand) * s.capacity() / float64(s.Services)
}

func (s *trustSetting) String() string {
	text := s.Demand.String()
	if s.Truths == manyTruths {
		text += ", " + manyTruths
	}
	for _, x := range []struct {
		is   bool
		word string
	}{
		{s.Groups == 1, "one group"}, {s.Headers, "headers"}, {s.Slow, "slow"}, {s.Services == 2, "two identities"},
		{s.Kind == provider.Fixed, "fixed"}, {s.Unphased, "unphased"}, {s.Dialect != "anthropic", s.Dialect},
	} {
		if x.is {
			text += ", " + x.word
		}
	}
	return text
}

func (s *trustSetting) limits(d *provider.Dialect) (limits []pool.Limit) {
	for _, x := range d.Limited {
		l := pool.Limit{Dimension: x, Window: time.Minute, Amount: s.PerGroup, Kind: s.Kind}
		if x != provider.Requests {
			l.Amount *= tokensPerCall
		}
		if s.Kind == provider.Fixed && !s.Unphased {
			l.Reset = minute
		}
		limits = append(limits, l)
	}
	return limits
}

// trustService is an identity, or an instance of the sole one, with its workers.
type trustService struct {
	name     string
	instance string // empty: each pair of workers is an instance
	speaker  *speaker
	special  bool
	crowd    bool
	arrivals *rand.Rand // apart from the other, so that arrivals are the same in each world
	rand     *rand.Rand
	leases   int // granted so far
	demanded int // jobs
	served   int // jobs with a good answer
}

// trustJob is one answer that a service wants within its patience.
type trustJob struct {
	service  *trustService
	worker   int
	deadline pool.Time
	tries    int
}

// trustCall is a lease with its request.
type trustCall struct {
	job    *trustJob
	grant  pool.Grant
	number int // among the leases of its service
	good   bool
	tells  *truth // what the answer reveals
}

type trustEvent struct {
	at     pool.Time
	number int
	do     func()
}

type trustEvents []trustEvent

func (q trustEvents) Len() int { return len(q) }
func (q trustEvents) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].number < q[j].number
}
func (q trustEvents) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *trustEvents) Push(x any)   { *q = append(*q, x.(trustEvent)) }
func (q *trustEvents) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}

type trustWorld struct {
	trustSetting
	dialect  *provider.Dialect
	dom      *pool.Domain
	now      pool.Time
	events   trustEvents
	numbers  int
	wake     pool.Time // the earliest moment for which an event calls Next
	waiting  map[*pool.Waiter]*trustJob
	services []*trustService
	provider *trustProvider
	audits   []*trustAudit
	// refusal is what was last reported of a key by a service without a crowd.
	refusal provider.Signal
	errs    map[string]int // that a domain returned and an owner would not expect
}

// newTrustWorld makes a world in which the special services have these speakers; one
// without a speaker is honest.
func newTrustWorld(set trustSetting, seed uint64, speakers ...*speaker) *trustWorld {
	d, ok := provider.Lookup(set.Dialect)
	if !ok {
		panic("no dialect " + set.Dialect)
	}
	w := &trustWorld{
		trustSetting: set, dialect: d, wake: pool.Never,
		waiting: map[*pool.Waiter]*trustJob{}, errs: map[string]int{},
	}
	cfg := pool.Config{
		Name: "d", Dialect: d, Seed: seed,
		Pools: []pool.Rules{{Name: "p", Models: []string{trustModel}, StartWithin: trustStartWithin}},
	}
	limits := set.limits(d)
	for i := range set.Groups {
		g := fmt.Sprintf("g%d", i)
		cfg.Groups = append(cfg.Groups, pool.Group{Name: g, Limits: limits})
		cfg.Keys = append(cfg.Keys, pool.Key{ID: g + "a", Group: g}, pool.Key{ID: g + "b", Group: g})
		for _, l := range limits {
			if !d.Held[l.Dimension] {
				w.audits = append(w.audits, newTrustAudit(g, l))
			}
		}
	}
	var err error
	if w.dom, err = pool.New(cfg); err != nil {
		panic(err)
	}
	w.provider = newTrustProvider(w)
	for i := range set.Services {
		s := &trustService{
			name:     fmt.Sprintf("s%d", i),
			arrivals: rand.New(rand.NewPCG(seed, uint64(i))),      // #nosec G404 -- it has to be repeatable
			rand:     rand.New(rand.NewPCG(seed, uint64(1000+i))), // #nosec G404 -- likewise
		}
		if set.Apart {
			s.name, s.instance = "sole", s.name
		}
		w.services = append(w.services, s)
	}
	for i := range set.Special { // which of them is the seed's choice
		s := w.services[(int(seed)+i)%set.Services]
		s.special, s.crowd = true, set.Crowd > 0 && i == 0
		if i < len(speakers) {
			s.speaker = speakers[i]
		}
	}
	return w
}

// trustStartWithin is the time from a grant to the moment before which the provider has
// the request.
const trustStartWithin = time.Second

// run lets the whole span pass.
func (w *trustWorld) run() *trustWorld {
	for _, s := range w.services {
		w.start(s)
	}
	for len(w.events) > 0 && w.events[0].at < trustSpan {
		e := heap.Pop(&w.events).(trustEvent)
		w.now = e.at
		e.do()
	}
	return w
}

func (w *trustWorld) at(t pool.Time, do func()) {
	w.numbers++
	heap.Push(&w.events, trustEvent{t, w.numbers, do})
}

func (w *trustWorld) after(d time.Duration, do func()) { w.at(w.now.Add(d), do) }

// between draws a time.
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)))
}

// start begins a service's loops.
func (w *trustWorld) start(s *trustService) {
	workers := w.Workers
	if s.crowd {
		workers = w.Crowd
	}
	if w.Demand != closedLoop && !s.crowd {
		w.arrive(s)
		return
	}
	for i := range workers {
		w.after(between(s.arrivals, 0, time.Second), func() { w.begin(s, i) })
	}
}

// arrive begins the next job of an open loop at its time.
func (w *trustWorld) arrive(s *trustService) {
	pause := -math.Log(1-s.arrivals.Float64()) / w.rate()
	w.after(time.Duration(pause*float64(time.Second)), func() {
		w.begin(s, s.demanded%w.Workers)
		w.arrive(s)
	})
}

func (w *trustWorld) begin(s *trustService, worker int) {
	s.demanded++
	w.ask(&trustJob{service: s, worker: worker, deadline: w.now.Add(trustPatience)})
}

// ends finishes a job; in a closed loop its worker begins the next one after a pause.
func (w *trustWorld) ends(j *trustJob, pause time.Duration) {
	if w.Demand == closedLoop || j.service.crowd {
		w.after(pause, func() { w.begin(j.service, j.worker) })
	}
}

func (w *trustWorld) asks(j *trustJob) pool.Ask {
	s := j.service
	a := pool.Ask{
		Holder: s.name, Instance: s.instance, Model: trustModel, TTL: time.Minute,
		Amounts: w.dialect.Reserve(provider.Demand{InputTokens: 100, MaxOutputTokens: 200}),
	}
	if w.Slow {
		a.TTL = 90 * time.Second
	}
	switch {
	case s.speaker != nil && s.speaker.instance != nil:
		a.Instance = s.speaker.instance(s.leases)
	case a.Instance == "":
		a.Instance = fmt.Sprintf("%s-%d", s.name, j.worker/4)
	}
	return a
}

// ask acquires a lease for a job, or waits for one as long as the job has time.
func (w *trustWorld) ask(j *trustJob) {
	a := w.asks(j)
	g, err := w.dom.Acquire(w.now, a)
	w.next()
	if err == nil {
		w.granted(j, g)
		return
	}
	var wt *pool.Waiter
	if errors.Is(err, pool.ErrAllKeysExhausted) {
		if wt, err = w.dom.Wait(w.now, a); err == nil {
			w.waiting[wt] = j
			w.next()
			w.at(j.deadline, func() { w.cancel(wt) })
			return
		}
	}
	w.errs[err.Error()]++
	w.ends(j, time.Second)
}

func (w *trustWorld) cancel(wt *pool.Waiter) {
	j := w.waiting[wt]
	if j == nil {
		return
	}
	delete(w.waiting, wt)
	if !w.dom.Cancel(wt) {
		w.errs["a waiter was served and did not come out of Next"]++
	}
	w.next()
	w.ends(j, 0)
}

// next does what the owner of a domain does after each verb.
func (w *trustWorld) next() {
	served, wake := w.dom.Next(w.now)
	for _, wt := range served {
		j := w.waiting[wt]
		delete(w.waiting, wt)
		w.granted(j, wt.Grant())
	}
	if wake <= w.now {
		w.errs["the domain wants to be called again at once"]++
	}
	if wake = max(wake, w.now+1); wake < w.wake && wake < trustSpan {
		w.wake = wake
		w.at(wake, func() {
			if w.wake == wake {
				w.wake = pool.Never
			}
			w.next()
		})
	}
}

// granted sends the request of a lease, or lets the speaker answer it.
func (w *trustWorld) granted(j *trustJob, g pool.Grant) {
	s := j.service
	group := groupOf(g.Key)
	sent := s.speaker == nil || s.speaker.sends
	for _, a := range w.audits {
		if a.group == group && (sent || !w.Headers) { // true headers tell that nothing came
			a.grant(w.now, g.Reserved[a.limit.Dimension])
		}
	}
	c := &trustCall{job: j, grant: g, number: s.leases}
	s.leases++
	if s.speaker != nil && !s.speaker.sends {
		w.after(between(s.rand, 50*time.Millisecond, 200*time.Millisecond), func() {
			w.answered(c, s.speaker.says(w, c, provider.Signal{}))
		})
		return
	}
	w.after(between(s.rand, 10*time.Millisecond, 200*time.Millisecond), func() {
		answer, takes := w.provider.answer(c), between(s.rand, 50*time.Millisecond, 200*time.Millisecond)
		switch {
		case !c.good:
		case w.Slow:
			takes = between(s.rand, 2*time.Second, 40*time.Second)
		default:
			takes = between(s.rand, 200*time.Millisecond, 2*time.Second)
		}
		w.after(takes, func() {
			if s.speaker != nil {
				answer = s.speaker.says(w, c, answer)
			}
			w.answered(c, answer)
		})
	})
}

// answered reports what came back, and goes on with the job.
func (w *trustWorld) answered(c *trustCall, answer provider.Signal) {
	j := c.job
	s := j.service
	switch r := s.rand.IntN(100); {
	case r < 2: // the report is lost, and the lease ends with its time
	case r < 4:
		w.after(lateReport, func() { w.report(c, answer) })
	default:
		w.after(between(s.rand, 5*time.Millisecond, 50*time.Millisecond), func() { w.report(c, answer) })
	}
	pause := between(s.rand, 500*time.Millisecond, time.Second)
	if s.crowd {
		pause = 0
	}
	switch {
	case c.good:
		s.served++
		w.ends(j, 0)
	case j.tries < 2 && w.now.Add(pause) < j.deadline:
		j.tries++
		w.after(pause, func() { w.ask(j) })
	default:
		w.ends(j, pause)
	}
}

func (w *trustWorld) report(c *trustCall, answer provider.Signal) {
	s := c.job.service
	used := provider.Amounts{provider.Requests: 1, provider.Concurrency: 1}
	if answer.Class == provider.OK {
		used = w.dialect.Count(provider.Usage{Input: 100, Output: 50, CacheRead: provider.Unknown,
			CacheWrite: provider.Unknown, Reasoning: provider.Unknown, Total: 150})
	}
	if s.speaker != nil && s.speaker.uses != nil {
		s.speaker.uses(&used)
	}
	if t := c.tells; t != nil && s.speaker == nil && t.first == 0 {
		t.first = w.now
	}
	if answer.Class != provider.OK && !s.crowd {
		w.refusal = answer
	}
	if _, err := w.dom.Report(w.now, c.grant.Lease, s.name, answer, used, true); err != nil && !errors.Is(err, pool.ErrLeaseEnded) {
		w.errs[err.Error()]++
	}
	w.next()
}

func groupOf(key string) string { return key[:len(key)-1] }

// over is by how much what was granted exceeded a configured limit at the worst moment.
func (w *trustWorld) over() (n int64) {
	for _, a := range w.audits {
		n = max(n, a.over)
	}
	return n
}

// othersServed is how many good answers those services got whose share is judged, and
// how many they wanted.
func (w *trustWorld) othersServed() (served, demanded int) {
	for _, s := range w.services {
		if !s.special {
			served += s.served
			demanded += s.demanded
		}
	}
	return served, demanded
}

package demo

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// tally is what the services of one pool got.
type tally struct {
	mu         sync.Mutex
	requests   int
	limited    int
	failed     int
	exhausted  int
	waits      []time.Duration
	perService map[string]int
}

func (t *tally) refused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exhausted++
}

func (t *tally) waited(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits = append(t.waits, d)
}

func (t *tally) answered(service string, status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	t.perService[service]++
	switch {
	case status == http.StatusTooManyRequests:
		t.limited++
	case status != http.StatusOK:
		t.failed++
	}
}

// PoolResult is what one pool's services got.
type PoolResult struct {
	Pool      string  `json:"pool"`
	Services  int     `json:"services"`
	Requests  int     `json:"requests"`
	Limited   int     `json:"rate_limited"` // 429s
	Failed    int     `json:"failed"`       // other answers than 200
	Exhausted int     `json:"exhausted"`    // asks that waited in vain
	WaitP50   float64 `json:"wait_p50_seconds"`
	WaitP95   float64 `json:"wait_p95_seconds"`
	WaitMax   float64 `json:"wait_max_seconds"`
	// Fairness is Jain's index over the services' requests: 1 if all got the
	// same.
	Fairness float64 `json:"fairness"`
}

func (t *tally) result(pool string, services int) PoolResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := PoolResult{
		Pool: pool, Services: services, Requests: t.requests, Limited: t.limited, Failed: t.failed, Exhausted: t.exhausted,
		Fairness: jain(t.perService, services),
	}
	if slices.Sort(t.waits); len(t.waits) > 0 {
		at := func(q float64) float64 { return t.waits[int(q*float64(len(t.waits)-1))].Seconds() }
		r.WaitP50, r.WaitP95, r.WaitMax = at(0.5), at(0.95), at(1)
	}
	return r
}

func jain(got map[string]int, n int) float64 {
	var sum, squares float64
	for _, x := range got {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(n) * squares)
}

package fleet

import (
	"container/heap"
	"context"
	"time"
)

// clock is virtual time: events in the order of their moments, and of those at one
// moment in the order in which they were set.
type clock struct {
	now    time.Duration
	events events
	set    uint64
}

type event struct {
	at  time.Duration
	nth uint64
	do  func()
}

// at sets an event; one in the past happens now.
func (c *clock) at(t time.Duration, do func()) {
	c.set++
	heap.Push(&c.events, event{max(t, c.now), c.set, do})
}

// after sets an event that is some time away.
func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// run lets events happen up to the end, the end included, unless the context ends.
func (c *clock) run(ctx context.Context, end time.Duration) error {
	for n := 0; len(c.events) > 0 && c.events[0].at <= end; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	c.now = end
	return nil
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].nth < e[j].nth
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

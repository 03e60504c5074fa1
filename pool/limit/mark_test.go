package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/internal/provider"
)

// The highest amount held since the last record that was saved, through saves that fail.
func TestPeakOfWhatIsHeld(t *testing.T) {
	for name, l := range map[string]Limit{
		"slots":  {Dimension: provider.Concurrency, Amount: 100},
		"output": {Dimension: provider.OutputTokens, Window: time.Minute, Amount: 100, Kind: provider.Refilling},
		"a day":  {Dimension: provider.OutputTokens, Window: 24 * time.Hour, Amount: 100, Kind: provider.Sliding},
	} {
		t.Run(name, func(t *testing.T) {
			var b Bucket
			b.Init(0, l, Terms{Holds: true})
			b.Hold(3)
			noted := 0
			b.Keep(func() { noted++ })
			for i, step := range []struct {
				holds  []int64
				noted  bool // a new record is needed
				peak   int64
				failed bool
			}{
				{nil, false, 3, false},                   // 3 are held
				{[]int64{4, -2}, true, 7, false},         // 5
				{[]int64{1, -1, 1, -6}, false, 6, false}, // 0: no more than is on record
				{nil, false, 0, false},
				{[]int64{5, -5}, true, 5, true},
				{nil, false, 5, true}, // what was in the one that failed is in the next
				{[]int64{4, -4}, true, 5, false},
				{[]int64{5, -5}, false, 5, false},
				{[]int64{9, -9}, true, 9, true},
				{[]int64{7, -7}, true, 9, false},
				{nil, false, 0, false},
			} {
				noted = 0
				for _, n := range step.holds {
					b.Hold(n)
				}
				if l.Window <= time.Minute { // else the write-ahead mark wants records too
					assert.Equal(t, step.noted, noted > 0, "step %d", i)
				}
				assert.Equal(t, step.peak, b.State().Peak, "step %d", i)
				if !step.failed {
					b.Saved()
				}
			}
		})
	}
}

// What is held while a record is on its way is in the next one.
func TestPeakWhileARecordIsOnItsWay(t *testing.T) {
	var b Bucket
	b.Init(0, Limit{Dimension: provider.Concurrency, Amount: 100}, Terms{})
	noted := 0
	b.Keep(func() { noted++ })
	b.Hold(2)
	assert.EqualValues(t, 2, b.State().Peak)
	b.Hold(6)
	b.Hold(-8)
	b.Saved()
	assert.Equal(t, 2, noted)
	assert.EqualValues(t, 8, b.State().Peak)
	b.Saved()
	b.HoldOrphaned(9)
	assert.Equal(t, 3, noted)
	assert.EqualValues(t, 9, b.State().Peak)
}

// A limit that holds nothing has no peak, and one by the minute nothing ahead.
func TestWhatIsStatedOfOtherLimits(t *testing.T) {
	var b Bucket
	b.Init(0, Limit{Dimension: provider.Requests, Window: time.Minute, Amount: 1000, Kind: provider.Refilling}, Terms{})
	b.Keep(func() { assert.Fail(t, "nothing of it is on record") })
	b.Charge(0, 1000)
	assert.Zero(t, b.State())
	b.Saved()
	assert.True(t, b.Durable())
}

// A snapshot of one moment, made older, is what the bucket itself says later.
func TestSnapshotsAge(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed} {
		for _, reset := range []Time{0, Time(10 * time.Hour)} {
			var b Bucket
			start := Time(100 * time.Hour)
			l := Limit{Window: 24 * time.Hour, Amount: 100_000, Kind: kind}
			if reset > 0 {
				l.Reset = start + reset
			}
			b.Init(start, l, Terms{Delta: 2 * time.Second})
			now := start
			for i := range 50 {
				now = start.Add(time.Duration(i) * 7 * time.Minute)
				b.Charge(now, int64(500+i))
			}
			taken := b.Snapshot(now)
			for later := now; later < now.Add(40*time.Hour); later = later.Add(11*time.Minute + 13*time.Second) {
				s := taken
				s.Slices = append([]int64(nil), taken.Slices...)
				s.Age(now, later)
				is := b.Snapshot(later)
				assert.InDelta(t, is.Used, s.Used, 1, "%v, %v later", kind, later.Sub(now))
				if is.Reset == 0 || s.Reset > 0 { // of the window after that, the owner knows the reset
					is.Used, s.Used = 0, 0
					assert.Equal(t, is, s, "%v, %v later", kind, later.Sub(now))
				}
			}
		}
	}
}

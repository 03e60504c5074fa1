package fleet

import (
	"math"
	"math/rand/v2"
	"time"
)

// chance is a stream of random numbers.
type chance struct{ *rand.Rand }

func newChance(seed uint64, stream int) chance {
	return chance{rand.New(rand.NewPCG(seed, uint64(stream)))} // #nosec G404 G115 -- is to be repeatable, and no stream is negative
}

// draw gives a number.
func (c chance) draw(s Spread) float64 {
	if s.Mean == 0 {
		return s.Min + c.Float64()*(s.Max-s.Min)
	}
	x := s.Mean
	if s.Dev > 0 {
		sigma := math.Sqrt(math.Log1p(s.Dev * s.Dev))
		x = s.Mean * math.Exp(sigma*c.NormFloat64()-sigma*sigma/2)
	}
	if s.Max > 0 {
		x = min(x, s.Max)
	}
	return max(x, s.Min)
}

func (s Spread) mean() float64 {
	if s.Mean == 0 {
		return (s.Min + s.Max) / 2
	}
	return s.Mean
}

// seconds draws a time.
func (c chance) seconds(s Spread) time.Duration { return seconds(c.draw(s)) }

func seconds(x float64) time.Duration { return time.Duration(x * float64(time.Second)) }

// pause is a time of which the mean is known, for what comes by chance.
func (c chance) pause(perSecond float64) time.Duration { return seconds(c.ExpFloat64() / perSecond) }

// hit is true in a part of all cases.
func (c chance) hit(part float64) bool { return part > 0 && c.Float64() < part }

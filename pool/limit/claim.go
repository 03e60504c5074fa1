package limit

import "time"

// claims are the last readings of two speakers that show that less is used than we think.
// One alone returns nothing: only what both allow does.
type claims [2]claim

type claim struct {
	by   string
	most int64 // used, with all that was charged since, in the counter's own measure
}

// charge takes in what is charged after a claim.
func (c *claims) charge(more func(most int64) int64) {
	for i := range c {
		if c[i].by != "" {
			c[i].most = more(c[i].most)
		}
	}
}

// agreed returns how low what is used may go, by what a speaker says now and another one has
// said. A sole speaker agrees with itself.
func (c *claims) agreed(r *reading, most int64) (to int64, ok bool) {
	if r.sole {
		return most, true
	}
	if c[0].by != r.by { // the speaker's own comes first, and its last in that place
		c[0], c[1] = c[1], c[0]
	}
	if c[0].by != r.by && c[1].by == "" {
		c[0], c[1] = c[1], c[0]
	}
	c[0] = claim{r.by, most}
	if c[1].by == "" {
		return 0, false
	}
	return max(most, c[1].most), true
}

// instants are statements of two speakers about one moment.
type instant struct {
	by string
	at Time
}

// agrees takes in when a speaker says that something is, and reports whether another has
// said about the same, or the speaker is the sole one. It returns the later of both.
func (i *instant) agrees(by string, sole bool, at Time, within time.Duration) (later Time, ok bool) {
	if sole {
		return at, true
	}
	if i.by != "" && i.by != by && at.Sub(i.at) <= within && i.at.Sub(at) <= within {
		later, ok = max(at, i.at), true
	}
	*i = instant{by, at}
	return later, ok
}

// Speaker is whose answer is taken in. What loosens needs two, or one that is alone.
type Speaker struct {
	Name string
	Sole bool
}

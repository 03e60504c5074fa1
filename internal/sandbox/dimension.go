package sandbox

import "time"

// dimension is one kind of limit on a model class.
type dimension int

const (
	rpm dimension = iota
	itpm
	otpm
	tpm
	rpd
	tpd
	rph
	dimensions // how many there are
)

func (d dimension) String() string {
	return [dimensions]string{"rpm", "itpm", "otpm", "tpm", "rpd", "tpd", "rph"}[d]
}

// window is the time in which a dimension's limit refills.
func (d dimension) window() time.Duration {
	switch d {
	case rpd, tpd:
		return 24 * time.Hour
	case rph:
		return time.Hour
	}
	return time.Minute
}

// of is the limit that l sets in a dimension.
func (l Limits) of(d dimension) int64 {
	return [dimensions]int64{l.RPM, l.ITPM, l.OTPM, l.TPM, l.RPD, l.TPD, l.RPH}[d]
}

// countsTokens reports whether it is no number of requests.
func (d dimension) countsTokens() bool { return d == itpm || d == otpm || d == tpm || d == tpd }

// demand is what one request asks of the limits, by dimension.
type demand struct {
	need    [dimensions]int64 // must fit on arrival
	upfront [dimensions]int64 // is charged on arrival, at most need
	output  [dimensions]int64 // is charged for each token of output as it is generated
}

// callOnly is a request that counts as one, and whose tokens nobody counts.
func callOnly(*request) demand {
	one := [dimensions]int64{rpm: 1, rpd: 1, rph: 1}
	return demand{need: one, upfront: one}
}

// asProduced counts the input on arrival, and real output as it comes.
func asProduced(r *request) demand { return burning(r, r.output, 1) }

// burning counts the input on arrival, where there must be room for so much
// output, of which each token counts as several.
func burning(r *request, room, times int64) demand {
	d := reserved(r, r.input)
	for _, dim := range [...]dimension{tpm, tpd} {
		d.need[dim], d.output[dim] = r.input+times*room, times
	}
	return d
}

// reserved counts a number of tokens on arrival, whatever the answer uses.
// Separate limits on input and output count what is really used.
func reserved(r *request, tokens int64) demand {
	d := callOnly(r)
	for _, all := range [...]*[dimensions]int64{&d.need, &d.upfront} {
		all[itpm], all[tpm], all[tpd] = r.input, tokens, tokens
	}
	d.need[otpm], d.output[otpm] = r.output, 1
	return d
}

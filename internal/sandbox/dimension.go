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
	dimensions // how many there are
)

func (d dimension) String() string {
	return [dimensions]string{"rpm", "itpm", "otpm", "tpm", "rpd", "tpd"}[d]
}

// window is the time in which a dimension's limit refills.
func (d dimension) window() time.Duration {
	if d == rpd || d == tpd {
		return 24 * time.Hour
	}
	return time.Minute
}

// of is the limit that l sets in a dimension.
func (l Limits) of(d dimension) int64 {
	return [dimensions]int64{l.RPM, l.ITPM, l.OTPM, l.TPM, l.RPD, l.TPD}[d]
}

// demand is what one request asks of the limits, by dimension.
type demand struct {
	need    [dimensions]int64 // must fit on arrival
	upfront [dimensions]int64 // is charged on arrival, at most need
	output  [dimensions]bool  // output is charged here as it is generated
}

// splitDemand is Anthropic's way: input on arrival, real output as it comes.
func splitDemand(input, output int64) demand {
	both := input + output
	return demand{
		need:    [dimensions]int64{rpm: 1, rpd: 1, itpm: input, otpm: output, tpm: both, tpd: both},
		upfront: [dimensions]int64{rpm: 1, rpd: 1, itpm: input, tpm: input, tpd: input},
		output:  [dimensions]bool{otpm: true, tpm: true, tpd: true},
	}
}

// reservedDemand is OpenAI's way: what the request reserves counts in full on
// arrival. Separate input and output limits, which some of its clones have,
// count as they do with Anthropic.
func reservedDemand(input, output, reserved int64) demand {
	return demand{
		need:    [dimensions]int64{rpm: 1, rpd: 1, itpm: input, otpm: output, tpm: reserved, tpd: reserved},
		upfront: [dimensions]int64{rpm: 1, rpd: 1, itpm: input, tpm: reserved, tpd: reserved},
		output:  [dimensions]bool{otpm: true},
	}
}

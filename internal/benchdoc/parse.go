package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// output is what several runs of `go test -bench` printed.
type output struct {
	CPU      string          // the processor's model
	Packages []testedPackage // in the order of their runs
}

type testedPackage struct {
	Name       string // without the module
	Benchmarks []benchmark
}

// benchmark is one result, or why there is none.
type benchmark struct {
	Name    string // without "Benchmark" and the number of processors
	Values  []value
	Notes   []string // what it logged
	Skipped bool     // the notes say why
}

// value is one of those that a benchmark reports.
type value struct {
	Unit string
	N    float64
}

func (b *benchmark) value(unit string) (float64, bool) {
	for _, v := range b.Values {
		if v.Unit == unit {
			return v.N, true
		}
	}
	return 0, false
}

const module = "github.com/keybroker/keybroker/"

// Before a benchmark's name: with the number of processors behind it, and without,
// as there is none if nothing stands before.
const (
	benched = "--- BENCH: "
	skipped = "--- SKIP: "
)

var (
	processors = regexp.MustCompile(`-\d+$`)
	about      = regexp.MustCompile("^(" + benched + "|" + skipped + `)?(Benchmark\S+)$`)
	note       = regexp.MustCompile(`^\s+\w+\.go:\d+: (.*)`)
)

// parse reads lines as the testing package prints them, with or without -v. A
// package's name is in its last line, which it has whatever its benchmarks do.
// Anything that failed is an error, and so is a benchmark's line that cannot be
// read: better no document than one with a gap.
func parse(r io.Reader) (output, error) {
	var o output
	var now testedPackage
	notes, speaker := map[string][]string{}, ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "pkg: ") && len(now.Benchmarks) > 0:
			return output{}, now.unfinished()
		case strings.HasPrefix(line, "FAIL") || strings.Contains(line, "--- FAIL:") || strings.HasPrefix(line, "panic:"):
			return output{}, fmt.Errorf("a benchmark failed: %s", line)
		case strings.HasPrefix(line, "cpu: "):
			o.CPU = strings.TrimPrefix(line, "cpu: ")
		case about.MatchString(line): // notes follow; with -v they come before the result
			m := about.FindStringSubmatch(line)
			speaker = strings.TrimPrefix(m[2], "Benchmark")
			switch m[1] {
			case benched:
				speaker = short(m[2])
			case skipped:
				now.Benchmarks = append(now.Benchmarks, benchmark{Name: speaker, Skipped: true})
			}
		case note.MatchString(line):
			notes[speaker] = append(notes[speaker], note.FindStringSubmatch(line)[1])
		case strings.HasPrefix(line, "Benchmark"):
			b, err := result(words)
			if err != nil {
				return output{}, fmt.Errorf("%w: %q", err, line)
			}
			now.Benchmarks = append(now.Benchmarks, b)
		case strings.HasPrefix(line, "ok ") && len(words) > 1:
			now.Name = strings.TrimPrefix(words[1], module)
			for i := range now.Benchmarks {
				now.Benchmarks[i].Notes = notes[now.Benchmarks[i].Name]
			}
			o.Packages = append(o.Packages, now)
			now, notes, speaker = testedPackage{}, map[string][]string{}, ""
		}
	}
	if len(now.Benchmarks) > 0 {
		return output{}, now.unfinished()
	}
	return o, lines.Err()
}

func (p *testedPackage) unfinished() error {
	return fmt.Errorf("the output of a package ends in its middle, after %s", p.Benchmarks[len(p.Benchmarks)-1].Name)
}

var errLine = errors.New("not a benchmark's result")

// result reads a name, a number of iterations, and pairs of a value and its unit.
func result(words []string) (benchmark, error) {
	if len(words) < 4 || len(words)%2 != 0 {
		return benchmark{}, errLine
	}
	if _, err := strconv.Atoi(words[1]); err != nil {
		return benchmark{}, errLine
	}
	b := benchmark{Name: short(words[0])}
	for i := 2; i < len(words); i += 2 {
		n, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return benchmark{}, errLine
		}
		b.Values = append(b.Values, value{words[i+1], n})
	}
	return b, nil
}

func short(name string) string {
	return processors.ReplaceAllString(strings.TrimPrefix(name, "Benchmark"), "")
}

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// document is docs/benchmarks.md. It is the same for the same output and machine.
func document(o output, m machine) (string, error) {
	var d strings.Builder
	fmt.Fprintf(&d, `# Benchmarks

Written by %s, which measures it all in one run; not to be edited.

| | |
|---|---|
| date | %s |
| processor | %s, %d cores |
| system | %s |
| Go | %s |

Rates and times are this machine's. Where two things were measured in turns, their ratio says
more: whatever else the machine did, both had of it. Such a ratio is the median of those of all
turns, the rates beside it are medians by themselves.

`, "`make bench`", m.Date.Format("2006-01-02"), cmp.Or(o.CPU, "unknown"), m.Cores, m.OS, m.Go)
	if err := o.ratios(&d); err != nil {
		return "", err
	}
	if err := o.tables(&d); err != nil {
		return "", err
	}
	return d.String(), nil
}

func (o *output) ratios(d *strings.Builder) error {
	d.WriteString("## Ratios\n\n| | ratio | measured | what it is |\n|---|---|---|---|\n")
	for _, r := range ratios {
		row, err := o.ratio(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(d, "| %s | %s | %s |\n", r.Name, row, r.How)
	}
	return nil
}

// ratio is the two cells of it.
func (o *output) ratio(r ratio) (string, error) {
	var ns [3]float64
	for i, f := range []figure{r.Of, r.One, r.Other} {
		if f == (figure{}) {
			continue
		}
		b := o.find(f.Package, f.Benchmark)
		if b == nil {
			return "", fmt.Errorf("%s: there is no benchmark %s in %s", r.Name, f.Benchmark, f.Package)
		}
		if b.Skipped {
			return "– | skipped: " + strings.Join(b.Notes, "; "), nil
		}
		n, ok := b.value(f.Unit)
		if !ok {
			return "", fmt.Errorf("%s: benchmark %s in %s reports no %s", r.Name, f.Benchmark, f.Package, f.Unit)
		}
		ns[i] = n
	}
	if r.Of == (figure{}) {
		ns[0] = ns[1] / ns[2]
	}
	if math.IsNaN(ns[0]) || math.IsInf(ns[0], 0) {
		return "", fmt.Errorf("%s: %v by %v is no ratio", r.Name, ns[1], ns[2])
	}
	measured := ""
	if r.One != (figure{}) {
		measured = quantity(ns[1], r.One.Unit) + ", " + quantity(ns[2], r.Other.Unit)
	}
	text := digits(ns[0], 2)
	if ns[0] > 0.1 && ns[0] < 10 {
		text = strconv.FormatFloat(ns[0], 'f', 2, 64)
	}
	return fmt.Sprintf("**%s** | %s", text, measured), nil
}

func (o *output) find(pkg, name string) *benchmark {
	for _, p := range o.Packages {
		for i := range p.Benchmarks {
			if p.Name == pkg && p.Benchmarks[i].Name == name {
				return &p.Benchmarks[i]
			}
		}
	}
	return nil
}

// tables are those of the packages.
func (o *output) tables(d *strings.Builder) error {
	place := func(name string) int { // an unknown one's is the last
		for i, p := range packages {
			if p.Name == name {
				return i
			}
		}
		return len(packages)
	}
	how := map[string]string{}
	for _, p := range packages {
		how[p.Name] = p.How
		if !slices.ContainsFunc(o.Packages, func(q testedPackage) bool { return q.Name == p.Name && len(q.Benchmarks) > 0 }) {
			return fmt.Errorf("there are no benchmarks of %s", p.Name)
		}
	}
	sorted := slices.Clone(o.Packages)
	slices.SortStableFunc(sorted, func(p, q testedPackage) int { return place(p.Name) - place(q.Name) })
	for _, p := range sorted {
		if len(p.Benchmarks) == 0 {
			continue
		}
		fmt.Fprintf(d, "\n## %s\n\n", p.Name)
		if text := how[p.Name]; text != "" {
			fmt.Fprintf(d, "%s\n\n", text)
		}
		p.table(d)
	}
	return nil
}

// columns are the units that have one, in order; all others share the last.
var columns = []struct{ unit, title string }{{"ns/op", "time"}, {"B/op", "memory"}, {"allocs/op", "allocations"}}

// table has the columns that any of its rows needs.
func (p *testedPackage) table(d *strings.Builder) {
	all := [][]string{{"benchmark"}}
	for _, c := range columns {
		all[0] = append(all[0], c.title)
	}
	all[0] = append(all[0], "reported")
	for _, b := range p.Benchmarks {
		all = append(all, b.cells())
	}
	for i := len(all[0]) - 1; i > 0; i-- {
		if !slices.ContainsFunc(all[1:], func(row []string) bool { return row[i] != "" }) {
			for j := range all {
				all[j] = slices.Delete(all[j], i, i+1)
			}
		}
	}
	all = slices.Insert(all, 1, slices.Repeat([]string{"---"}, len(all[0])))
	for _, row := range all {
		fmt.Fprintf(d, "| %s |\n", strings.Join(row, " | "))
	}
}

func (b *benchmark) cells() []string {
	cells := []string{b.Name}
	for _, c := range columns {
		cell := ""
		if n, ok := b.value(c.unit); ok {
			cell = quantity(n, c.unit)
		}
		cells = append(cells, cell)
	}
	var others []string
	if b.Skipped {
		others = append(others, "skipped")
	}
	for _, v := range b.Values {
		if !slices.ContainsFunc(columns, func(c struct{ unit, title string }) bool { return c.unit == v.Unit }) {
			others = append(others, quantity(v.N, v.Unit))
		}
	}
	return append(cells, strings.Join(append(others, b.Notes...), ", "))
}

// quantity is a number with its unit, as people write it. It has three digits: no
// benchmark knows more.
func quantity(n float64, unit string) string {
	switch unit {
	case "ns/op":
		return scaled(n, "ns", "µs", "ms", "s")
	case "B/op":
		return scaled(n, "B", "kB", "MB", "GB")
	case "allocs/op":
		return digits(n, 3)
	}
	return digits(n, 3) + " " + unit
}

func scaled(n float64, units ...string) string {
	for len(units) > 1 && n >= 999.5 {
		n, units = n/1000, units[1:]
	}
	return digits(n, 3) + " " + units[0]
}

// digits rounds to so many significant digits, and sets off thousands.
func digits(n float64, significant int) string {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(n, 'g', significant, 64), 64)
	whole, fraction, _ := strings.Cut(strconv.FormatFloat(math.Abs(rounded), 'f', -1, 64), ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if rounded < 0 {
		return "-" + whole
	}
	return whole
}

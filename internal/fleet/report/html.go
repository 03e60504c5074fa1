package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/keybroker/keybroker/internal/fleet"
)

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": Percent, "seconds": Seconds, "colour": colour, "bars": bars, "lines": lines, "waits": waits, "good": good,
	"recovered": recovered, "kept": kept, "slug": slug, "ours": ours,
}).Parse(page))

// HTML writes one page that needs nothing else.
func HTML(w io.Writer, title string, all []Scenario) error {
	return pageTemplate.Execute(w, struct {
		Title     string
		Scenarios []Scenario
	}{title, all})
}

// colours of strategies; ours stands out.
var colours = map[string]string{
	"broker": "#0b6e4f", "random": "#c1440e", "round robin": "#d98e04", "static split": "#5b5f97", "headers": "#a23b72", "minute counter": "#3d7ea6",
}

func colour(strategy string) template.CSS {
	if c, ok := colours[strategy]; ok {
		return template.CSS(c) // #nosec G203 -- from the table above
	}
	return "#666"
}

// ours is the broker.
func ours(strategy string) bool { return strategy == fleet.Strategies[0].Name }

// good tells whether a result is one to be pleased with; the page says by what.
func good(r *fleet.Result) string {
	switch {
	case r.Share >= 0.95 && r.RefusedRate <= 0.001 && r.Overrun <= 0.01:
		return "good"
	case r.Share >= 0.9 && r.RefusedRate <= 0.05 && r.Overrun <= 0.1:
		return "fair"
	}
	return "poor"
}

func slug(s string) string { return strings.ReplaceAll(s, " ", "-") }

const plotWidth, plotHeight = 640.0, 220.0

// svg is a plot that is being drawn.
type svg struct{ strings.Builder }

func begin(width, height float64) *svg {
	s := &svg{}
	s.f(`<svg viewBox="0 0 %.0f %.0f" role="img">`, width, height)
	return s
}

func (s *svg) f(format string, args ...any) { fmt.Fprintf(s, format, args...) }

func (s *svg) text(x, y float64, class, text string) {
	s.f(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, template.HTMLEscapeString(text))
}

func (s *svg) end() template.HTML {
	s.f("</svg>")
	return template.HTML(s.String()) // #nosec G203 -- numbers, and names that are escaped
}

// bars shows what was used, and what was refused.
func bars(results []*fleet.Result) template.HTML {
	const row, left, width = 30.0, 120.0, 400.0
	s := begin(plotWidth, row*float64(len(results))+30)
	for i, r := range results {
		y := 10 + row*float64(i)
		s.text(left-8, y+15, "label end", r.Strategy)
		used := math.Min(r.Share, 1) * width
		s.f(`<rect x="%.1f" y="%.1f" width="%.1f" height="10" fill="#e6e6e6"/>`, left, y+1, width)
		s.f(`<rect x="%.1f" y="%.1f" width="%.1f" height="10" fill="%s"/>`, left, y+1, used, colour(r.Strategy))
		s.f(`<rect x="%.1f" y="%.1f" width="%.1f" height="6" fill="#c00"/>`, left, y+13, r.RefusedRate*width)
		s.text(left+width+8, y+11, "value", Percent(r.Share))
		s.text(left+width+64, y+11, "value red", Percent(r.RefusedRate))
	}
	s.text(left, row*float64(len(results))+24, "note", "what is allowed and was used; in red, the part of calls that met a 429")
	return s.end()
}

// lines shows what was used over time, of each strategy.
func lines(results []*fleet.Result) template.HTML {
	const left, bottom, top = 44.0, 24.0, 10.0
	s := begin(plotWidth, plotHeight)
	end, most := 1.0, 1.2
	for _, r := range results {
		if n := len(r.Trail); n > 0 {
			end = math.Max(end, r.Trail[n-1].At)
		}
	}
	x := func(at float64) float64 { return left + (plotWidth-left-10)*at/end }
	y := func(used float64) float64 {
		return top + (plotHeight-top-bottom)*(1-math.Min(used, most)/most)
	}
	for _, v := range []float64{0, 0.5, 1} {
		s.f(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`, left, y(v), plotWidth-10, y(v))
		s.text(left-6, y(v)+4, "label end", fmt.Sprintf("%.0f %%", 100*v))
	}
	for i := range 5 {
		at := end * float64(i) / 4
		s.text(x(at), plotHeight-6, "label "+[]string{"middle", "end"}[i/4], minutes(at))
	}
	width := func(r *fleet.Result) string {
		if ours(r.Strategy) {
			return "2.5"
		}
		return "1"
	}
	for i := len(results) - 1; i >= 0; i-- { // ours on top
		r := results[i]
		step := max(1, len(r.Trail)/160)
		s.f(`<polyline fill="none" stroke="%s" stroke-width="%s" points="`, colour(r.Strategy), width(r))
		for j := 0; j+step <= len(r.Trail); j += step {
			sum := 0.0
			for _, p := range r.Trail[j : j+step] {
				sum += p.Used
			}
			s.f("%.1f,%.1f ", x(r.Trail[j].At), y(sum/float64(step)))
		}
		s.f(`"/>`)
	}
	return s.end()
}

func minutes(s float64) string {
	if s >= 3600 {
		return fmt.Sprintf("%.1f h", s/3600)
	}
	return fmt.Sprintf("%.0f min", s/60)
}

// waits shows how long requests waited: from p50 to p95 a thick line, to p99 a thin one.
func waits(results []*fleet.Result) template.HTML {
	const row, left, width = 24.0, 120.0, 400.0
	s := begin(plotWidth, row*float64(len(results))+34)
	most := 1.0
	for _, r := range results {
		most = math.Max(most, r.Wait.P99)
	}
	x := func(v float64) float64 { return left + width*v/most }
	for i, r := range results {
		y := 16 + row*float64(i)
		s.text(left-8, y+4, "label end", r.Strategy)
		s.f(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1.5"/>`, x(r.Wait.P50), y, x(r.Wait.P99), y, colour(r.Strategy))
		s.f(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="6"/>`, x(r.Wait.P50), y, x(r.Wait.P95), y, colour(r.Strategy))
		s.f(`<circle cx="%.1f" cy="%.1f" r="5" fill="%s"/>`, x(r.Wait.P50), y, colour(r.Strategy))
		s.text(left+width+8, y+4, "value", fmt.Sprintf("%.1f / %.1f / %.1f s", r.Wait.P50, r.Wait.P95, r.Wait.P99))
	}
	s.text(left, row*float64(len(results))+28, "note", "wait for those that were served: median, p95, p99")
	return s.end()
}

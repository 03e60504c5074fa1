package report_test

import (
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/fleet"
	"github.com/keybroker/keybroker/internal/fleet/report"
)

func some() []report.Scenario {
	s := &fleet.Scenario{Name: "one <b>", About: "a & b"}
	ours := &fleet.Result{
		Strategy: "broker", Share: 0.998, Served: 10, Sent: 10, Fairness: 1, Wait: fleet.Waits{P50: 0.5, P95: 1, P99: 2},
		Recoveries: []fleet.Recovery{{Event: "5m: cut", Seconds: 4}}, Missed: []string{"too little"},
		Trail: []fleet.Point{{At: 0, Used: 0.5}, {At: 1, Used: 1}, {At: 2, Used: 9}},
	}
	kept := 0.25
	other := &fleet.Result{Strategy: "random", Share: 1, Kept: &kept, Refused: 7, RefusedRate: 0.41, Overrun: 0.123, Recoveries: []fleet.Recovery{{Event: "5m: cut", Seconds: -1}}, Blamed: []string{"k"}}
	return []report.Scenario{{Scenario: s, Results: []*fleet.Result{ours, other}}}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	require.NoError(t, report.Table(&b, some()))
	assert.Equal(t, `one <b>: a & b

  strategy     used  429s  of sent  overrun  served  given up  wait p50     p95     p99  fairness  starved
    broker   99.8 %     0      0 %      0 %      10         0    0.50 s  1.00 s  2.00 s     1.000        0
    random  100.0 %     7   41.0 %   12.3 %       0         0    0.00 s  0.00 s  0.00 s     0.000        0
  broker, 5m: cut: what is allowed was used again after 4 s
  MISSED by broker: too little
  random, 5m: cut: what is allowed was not used again
  random: each service that hears the provider's words kept 25.0 % at least
  random put k out of use, which was good
`, b.String())
}

// The page needs nothing from elsewhere, and names are text in it.
func TestPageStandsAlone(t *testing.T) {
	var b strings.Builder
	require.NoError(t, report.HTML(&b, "a title", append(some(), some()...)))
	page := b.String()
	for _, never := range []string{"<script", "src=", "http", "url(", "one <b>", "NaN", "%!", "ZgotmplZ"} {
		assert.NotContains(t, page, never)
	}
	for _, must := range []string{"one &lt;b&gt;", "a &amp; b", "99.8 %", "missed: too little", "kept 25.0 % at least", "polyline", "#0b6e4f"} {
		assert.Contains(t, page, must)
	}
	plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1)
	assert.Len(t, plots, 6)
	for _, svg := range plots { // well-formed
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := d.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
		}
	}
}

func TestNothingToPlot(t *testing.T) {
	s := some()
	s[0].Results = []*fleet.Result{{Strategy: "broker"}}
	require.NoError(t, report.HTML(io.Discard, "empty", s))
	require.NoError(t, report.HTML(io.Discard, "nothing", nil))
	require.NoError(t, report.HTML(io.Discard, "none", []report.Scenario{{Scenario: s[0].Scenario}}))
}

func TestPercent(t *testing.T) {
	for x, want := range map[float64]string{0: "0 %", 0.00006: "0.006 %", 0.5: "50.0 %", 1: "100.0 %", 0.99951: "100.0 %"} {
		assert.Equal(t, want, report.Percent(x))
	}
}

package provider_test

// What a provider's answers mean, against headers and bodies as they were recorded
// or documented: testdata/vectors/*.yaml, and the file that VECTORS names. Every
// expectation is asserted, and one that is not known fails.

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/provider"
)

type vector struct {
	Name, Provider, Source string
	Status                 int
	Headers                map[string][]string
	Body                   string
	Expect                 struct {
		Class          string
		Scope          *string
		CooldownMS     *int64  `yaml:"cooldown_ms"`
		CooldownSource *string `yaml:"cooldown_source"`
		Windows        []vectorWindow
		BindingDim     *string `yaml:"binding_dim"`
		BodyLimit      *int64  `yaml:"body_limit"`
		BodyUsed       *int64  `yaml:"body_used"`
		BodyRequested  *int64  `yaml:"body_requested"`
		NeedsOperator  bool    `yaml:"needs_operator"`
		RampLimit      bool    `yaml:"ramp_limit"`
		Usage          *vectorUsage
		UsagePartial   bool `yaml:"usage_partial"`
		Note           string

		// Not modelled, on purpose:
		SoftOverLimit bool   `yaml:"soft_over_limit"` // Fireworks warns of a limit that it does not enforce yet
		LastQueryCost *int64 `yaml:"last_query_cost"` // the usage in the body says it, too
		Secondary     bool   // GitHub's kinds of limits lead to the same rest
	}
}

type vectorWindow struct {
	Dim             string
	WindowS         *int64 `yaml:"window_s"`
	InferredWindowS *int64 `yaml:"inferred_window_s"`
	Limit           *int64
	Remaining       *int64
	ResetMS         *int64   `yaml:"reset_ms"`
	RoundedTo       int64    `yaml:"rounded_to"`
	Utilization     *float64 // not modelled: it is no amount
	Status          string   // of a subscription: nothing remains of one that is rejected
	Unit            string   // "requests" is the Dimension
	RawRemaining    *int64   `yaml:"raw_remaining"` // not modelled: less than nothing is nothing
}

type vectorUsage struct {
	Input, Output, Total, Reasoning *int64
	CacheRead                       *int64 `yaml:"cache_read"`
	CacheWrite                      *int64 `yaml:"cache_write"`
	CountsToInputLimit              *int64 `yaml:"counts_to_input_limit"`
}

func vectors(t testing.TB) []vector {
	files, err := filepath.Glob("testdata/vectors/*.yaml")
	require.NoError(t, err)
	if f := os.Getenv("VECTORS"); f != "" {
		files = append(files, f)
	}
	var all []vector
	for _, f := range files {
		raw, err := os.ReadFile(f)
		require.NoError(t, err)
		d := yaml.NewDecoder(bytes.NewReader(raw))
		d.KnownFields(true)
		var vs []vector
		assert.NoError(t, d.Decode(&vs), f) // which reads past a field that is not known
		all = append(all, vs...)
	}
	require.NotEmpty(t, all)
	return all
}

func (v *vector) dialect(t testing.TB) *provider.Dialect {
	if v.Provider == "azure_openai" {
		return lookup(t, "azure")
	}
	return lookup(t, v.Provider)
}

func (v *vector) response() provider.Response {
	h := http.Header{}
	for name, values := range v.Headers {
		for _, value := range values {
			h.Add(name, value)
		}
	}
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		at = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	}
	return provider.Response{Status: v.Status, Header: h, Body: []byte(v.Body), At: at}
}

// scopeOf says what each scope of the vectors is to the engine: an owner, and
// perhaps a part of what it has. A limit that a provider counts by key is the
// group's: whoever put keys into one group says that they share.
func scopeOf(scope *string, class string) (provider.Scope, error) {
	if scope == nil {
		return provider.NoScope, nil
	}
	owner, part, _ := strings.Cut(*scope, "+")
	part = strings.TrimPrefix(strings.TrimPrefix(part, "region"), "+") // a group has its keys in one
	switch part {
	case "", "model", "model_class", "endpoint":
	default:
		return 0, fmt.Errorf("unknown part in scope %q", *scope)
	}
	limited := class == "rate_limited" || class == "concurrency_limited"
	switch owner {
	case "fast_mode":
		return provider.NoScope, nil
	case "deployment":
		return provider.ClassScope, nil
	case "org", "project", "account", "team", "user", "billing_account", "org_or_workspace", "workspace":
	case "key":
		switch {
		case limited:
		case part == "":
			return provider.KeyScope, nil
		default:
			return provider.KeyModelScope, nil
		}
	case "model", "upstream":
		return provider.ModelScope, nil
	case "provider":
		return provider.ProviderScope, nil
	default:
		return 0, fmt.Errorf("unknown scope %q", *scope)
	}
	if part == "" {
		return provider.GroupScope, nil
	}
	return provider.ClassScope, nil
}

// dimOf splits "fast_input_tokens" and "tokens_day".
func dimOf(dim string) (d provider.Dimension, name string, length time.Duration) {
	for _, p := range []string{"fast", "priority", "project"} {
		if rest, ok := strings.CutPrefix(dim, p+"_"); ok {
			d, _, length = dimOf(rest)
			return d, p, length
		}
	}
	if rest, ok := strings.CutPrefix(dim, "unified_"); ok {
		return provider.NumDimensions, "unified-" + rest, 0
	}
	if rest, ok := strings.CutSuffix(dim, "_day"); ok {
		d, name, _ = dimOf(rest)
		return d, name, 24 * time.Hour
	}
	if rest, ok := strings.CutSuffix(dim, "_month"); ok {
		d, _, _ = dimOf(rest)
		return d, "month", 0
	}
	for d := range provider.NumDimensions {
		if dim == strings.ReplaceAll(d.String(), " ", "_") {
			return d, "", 0
		}
	}
	return provider.Requests, dim, 0
}

func orUnknown(n *int64) int64 {
	if n == nil {
		return provider.Unknown
	}
	return *n
}

// window is what a vector expects, without what it does not speak of: how the
// window moves and whether it is set aside.
func (v *vectorWindow) window() provider.Window {
	w := provider.Window{
		Limit: orUnknown(v.Limit), Remaining: orUnknown(v.Remaining), Reset: provider.Unknown,
	}
	w.Dimension, w.Name, _ = dimOf(v.Dim)
	switch {
	case v.WindowS != nil:
		w.Length = time.Duration(*v.WindowS) * time.Second
	case v.InferredWindowS != nil:
		w.Length, w.Inferred = time.Duration(*v.InferredWindowS)*time.Second, true
	}
	if v.ResetMS != nil {
		w.Reset = time.Duration(*v.ResetMS) * time.Millisecond
	}
	if v.Status == "rejected" {
		w.Remaining = 0
	}
	return w
}

func plain(ws []provider.Window) []provider.Window {
	out := []provider.Window{}
	for _, w := range ws {
		w.Kind, w.Aside, w.Rounding = 0, false, 0
		if w.Reset > 0 {
			w.Reset = w.Reset.Truncate(time.Millisecond)
		}
		out = append(out, w)
	}
	sort.Slice(out, func(i, j int) bool { return fmt.Sprint(out[i]) < fmt.Sprint(out[j]) })
	return out
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			e, s := &v.Expect, v.dialect(t).Read(v.response())
			scope, err := scopeOf(e.Scope, e.Class)
			require.NoError(t, err)
			assert.Equal(t, e.Class, s.Class.String())
			assert.Equal(t, scope, s.Scope, "%v, not %v", scope, s.Scope)
			assert.InDelta(t, time.Duration(max(orUnknown(e.CooldownMS), 0))*time.Millisecond, s.Wait, float64(time.Millisecond-1))
			assert.Equal(t, e.CooldownMS != nil, s.Source != provider.NotStated)
			assert.Equal(t, e.NeedsOperator, s.Operator)
			assert.Equal(t, e.RampLimit, s.RampUp)
			v.source(t, s)
			v.windows(t, s)
			v.refused(t, s)
			v.usage(t)
		})
	}
}

func (v *vector) source(t *testing.T, s provider.Signal) {
	rests := s.Class == provider.RateLimited || s.Class == provider.ConcurrencyLimited || s.Class == provider.Overloaded
	switch want := v.Expect.CooldownSource; {
	case want == nil:
		assert.Equal(t, provider.NotStated, s.Source)
		assert.False(t, rests)
	case *want == "policy":
		assert.Equal(t, provider.NotStated, s.Source, s.Source.String())
		assert.True(t, rests)
	default:
		source := strings.TrimPrefix(*want, "provider-")
		if strings.HasPrefix(source, "calendar-") { // of a day or a month
			source = "calendar"
		}
		assert.Equal(t, source, s.Source.String())
	}
}

func (v *vector) windows(t *testing.T, s provider.Signal) {
	var want []provider.Window
	for _, w := range v.Expect.Windows {
		want = append(want, w.window())
		for _, got := range s.Windows { // a vector is silent about most that is exact
			if x := w.window(); w.RoundedTo > 0 && got.Dimension == x.Dimension && got.Name == x.Name && got.Length == x.Length {
				assert.Equal(t, w.RoundedTo, got.Rounding)
			}
		}
		if w.Unit != "" {
			assert.Equal(t, "requests", w.Unit)
		}
	}
	assert.Equal(t, plain(want), plain(s.Windows))
}

func (v *vector) refused(t *testing.T, s provider.Signal) {
	e := &v.Expect
	if e.BindingDim == nil && e.BodyLimit == nil && e.BodyUsed == nil && e.BodyRequested == nil {
		return
	}
	require.NotNil(t, s.Refused)
	if e.BindingDim != nil {
		d, name, length := dimOf(*e.BindingDim)
		assert.Equal(t, d, s.Refused.Dimension, *e.BindingDim)
		assert.Equal(t, name, s.Refused.Name)
		if length > 0 {
			assert.Equal(t, length, s.Refused.Length)
		}
	}
	for what, c := range map[string]struct {
		want *int64
		got  int64
	}{
		"limit": {e.BodyLimit, s.Refused.Limit}, "used": {e.BodyUsed, s.Refused.Used}, "requested": {e.BodyRequested, s.Refused.Requested},
	} {
		if c.want != nil {
			assert.Equal(t, *c.want, c.got, what)
		}
	}
}

func (v *vector) usage(t *testing.T) {
	e := v.Expect.Usage
	if e == nil {
		return
	}
	for _, size := range []int{1, 7, len(v.Body)} {
		var b provider.Body
		for rest := []byte(v.Body); len(rest) > 0; {
			n, err := b.Write(rest[:min(size, len(rest))])
			require.NoError(t, err)
			rest = rest[n:]
		}
		u := b.Usage()
		for what, c := range map[string]struct {
			want *int64
			got  int64
		}{
			"input": {e.Input, u.Input}, "output": {e.Output, u.Output}, "total": {e.Total, u.Total}, "reasoning": {e.Reasoning, u.Reasoning},
			"cache read": {e.CacheRead, u.CacheRead}, "cache write": {e.CacheWrite, u.CacheWrite},
			"counted": {e.CountsToInputLimit, v.dialect(t).Count(u)[provider.InputTokens]},
		} {
			if c.want != nil {
				assert.Equal(t, *c.want, c.got, what)
			}
		}
		if v.Expect.UsagePartial {
			assert.False(t, b.Ended())
		}
	}
}

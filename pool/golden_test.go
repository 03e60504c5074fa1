package pool_test

// Stories with several clients, as scripts that anyone can read: a command a
// line, what came of it indented below. `go test ./pool -run Golden -update`
// writes the outcomes anew; read the difference before you believe it.

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

var update = flag.Bool("update", false, "write what the golden scripts come to")

func TestGoldenScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			got := (&script{T: t}).play(string(text))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
				return
			}
			assert.Equal(t, string(text), got)
		})
	}
}

// script plays a file. Leases and waiters are numbered as they come.
type script struct {
	*testing.T
	cfg     setup
	pool    *pool.Domain
	now     pool.Time
	leases  []*named
	waiters []*pool.Waiter
	out     strings.Builder
}

type named struct {
	pool.Grant
	holder string
}

func (s *script) play(text string) string {
	s.cfg = setup{Dialect: dialect(s, "anthropic"), Flat: true, StartWithin: 2 * time.Second}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		s.out.WriteString(line)
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			s.do(words[0], parse(words[1:]))
			s.serve()
		}
	}
	return s.out.String()
}

func (s *script) print(format string, args ...any) {
	fmt.Fprintf(&s.out, "    "+format+"\n", args...)
}

// args are the words of a line: plain ones in their order, and name=value.
type args struct {
	words []string
	named map[string]string
}

func parse(words []string) args {
	a := args{named: map[string]string{}}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			a.named[name] = value
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (a args) has(word string) bool {
	return strings.Contains(" "+strings.Join(a.words, " ")+" ", " "+word+" ")
}

func (s *script) number(v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	require.NoError(s, err)
	return n
}

func (s *script) duration(v string) time.Duration {
	d, err := time.ParseDuration(v)
	require.NoError(s, err)
	return d
}

func (s *script) do(command string, a args) {
	switch command {
	case "pool":
		s.cfg.Strategy = a.named["strategy"]
		s.cfg.StartWithin = s.duration(a.named["start_within"])
	case "group":
		s.cfg.Groups = append(s.cfg.Groups, pool.Group{Name: a.words[0], Limits: s.limits(a)})
	case "key":
		s.cfg.Keys = append(s.cfg.Keys, pool.Key{
			ID: a.words[0], Group: a.named["group"], Limits: s.limits(a), Priority: int(s.number("0" + a.named["priority"])),
		})
	case "acquire":
		g, err := s.engine().Acquire(s.now, s.ask(a))
		s.granted(a.words[0], g, err)
	case "wait":
		w, err := s.engine().Wait(s.now, s.ask(a))
		require.NoError(s, err)
		s.waiters = append(s.waiters, w)
		s.print("waiter %d", len(s.waiters))
	case "cancel":
		s.print("%v", s.pool.Cancel(s.waiters[s.number(a.words[0])-1]))
	case "report":
		s.report(a)
	case "release":
		l := s.leases[s.number(a.words[0])-1]
		s.outcome(s.pool.Release(s.now, l.Lease, l.holder, a.has("unused")))
	case "advance":
		s.advance(s.now.Add(s.duration(a.words[0])))
	case "inspect":
		s.inspect()
	default:
		s.Fatalf("unknown command %q", command)
	}
}

func (s *script) engine() *pool.Domain {
	if s.pool == nil {
		var err error
		s.pool, err = newPool(s.cfg)
		require.NoError(s, err)
	}
	return s.pool
}

func (s *script) limits(a args) []pool.Limit {
	var ls []pool.Limit
	for d, name := range []string{"rpm", "itpm", "otpm"} {
		if v, ok := a.named[name]; ok {
			ls = append(ls, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: s.number(v), Kind: provider.Refilling})
		}
	}
	if v, ok := a.named["concurrency"]; ok {
		ls = append(ls, slots(s.number(v)))
	}
	return ls
}

func (s *script) ask(a args) pool.Ask {
	ask := pool.Ask{Holder: a.words[0], TTL: 5 * time.Minute, Request: a.named["request"]}
	ask.Amounts = s.cfg.Dialect.Reserve(provider.Demand{
		InputTokens: s.number("0" + a.named["input"]), MaxOutputTokens: s.number("0" + a.named["output"]),
	})
	if v, ok := a.named["ttl"]; ok {
		ask.TTL = s.duration(v)
	}
	if v, ok := a.named["exclude"]; ok {
		ask.Exclude = strings.Split(v, ",")
	}
	return ask
}

func (s *script) granted(holder string, g pool.Grant, err error) {
	for i, l := range s.leases {
		if err == nil && l.Lease == g.Lease {
			s.print("%s has lease %d still", holder, i+1)
			return
		}
	}
	if err == nil {
		s.leases = append(s.leases, &named{g, holder})
		s.print("%s has lease %d: key %s", holder, len(s.leases), g.Key)
		return
	}
	s.outcome(err)
	var e *pool.ExhaustedError
	if errors.As(err, &e) {
		if e.RetryAt == pool.Never {
			s.print("retry: never")
		} else {
			s.print("retry in %v", e.RetryAt.Sub(s.now))
		}
	}
}

func (s *script) outcome(err error) {
	if err != nil {
		s.print("%v", err)
		return
	}
	s.print("ok")
}

// report tells the provider's answer: status, retry-after, limits, and use.
func (s *script) report(a args) {
	l := s.leases[s.number(a.words[0])-1]
	r := provider.Response{Header: map[string][]string{}}
	used := unknown
	for name, v := range a.named {
		switch name {
		case "status":
			r.Status = int(s.number(v))
		case "retry-after":
			r.Header.Set("Retry-After", v)
		case "input":
			used[provider.InputTokens] = s.number(v)
		case "output":
			used[provider.OutputTokens] = s.number(v)
		default:
			r.Header.Set("Anthropic-Ratelimit-"+name, v)
		}
	}
	_, err := s.pool.Report(s.now, l.Lease, l.holder, s.cfg.Dialect.Read(r), used, a.has("final"))
	s.outcome(err)
}

// advance goes from one moment that the pool asks for to the next.
func (s *script) advance(to pool.Time) {
	for {
		_, wake := s.serve()
		if wake > to {
			s.now = to
			return
		}
		s.now = wake
	}
}

func (s *script) serve() (n int, wake pool.Time) {
	if s.pool == nil {
		return 0, pool.Never
	}
	served, wake := s.pool.Next(s.now)
	for _, w := range served {
		s.leases = append(s.leases, &named{w.Grant(), w.Ask.Holder})
		s.print("at %v %s has lease %d: key %s", time.Duration(s.now), w.Ask.Holder, len(s.leases), w.Grant().Key)
	}
	return len(served), wake
}

func (s *script) inspect() {
	v := s.engine().Inspect(s.now, "")
	s.print("at %v: %d of %d keys available, %d leases, %d waiting", time.Duration(s.now), v.Available, v.KeyCount, v.Open, v.Waiters)
	for _, q := range v.Quotas {
		rest, window := "", ""
		if q.CooldownUntil > s.now {
			rest = fmt.Sprintf(", cools down for %v", q.CooldownUntil.Sub(s.now))
		}
		if q.Window > 0 {
			window = fmt.Sprintf(", feels its way with %d", q.Window)
		}
		s.print("%s: %d leases%s%s", q.Group, q.Open, rest, window)
		for _, l := range q.Limits {
			s.print("    %v: %d of %d left, %d held", l.Dimension, l.Remaining, l.Limit, l.Held)
		}
	}
}

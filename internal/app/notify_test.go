package app_test

// What people read in the log of what happens to keys, and what they do not.

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// lines keeps what is logged, without the times.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// twice hands what is logged to two handlers, one of which is for the canary.
type twice struct {
	slog.Handler
	all slog.Handler
}

func (b twice) Enabled(context.Context, slog.Level) bool { return true }

func (b twice) Handle(ctx context.Context, r slog.Record) error {
	if b.Handler.Enabled(ctx, r.Level) {
		_ = b.Handler.Handle(ctx, r)
	}
	return b.all.Handle(ctx, r)
}

func (b twice) WithAttrs(as []slog.Attr) slog.Handler {
	return twice{b.Handler.WithAttrs(as), b.all.WithAttrs(as)}
}

func (b twice) WithGroup(name string) slog.Handler {
	return twice{b.Handler.WithGroup(name), b.all.WithGroup(name)}
}

// events are the lines that tell of one.
func (l *lines) events() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range strings.Lines(l.text.String()) {
		if strings.Contains(s, "event=") {
			all = append(all, regexp.MustCompile(`^time=\S+ `).ReplaceAllString(strings.TrimSuffix(s, "\n"), ""))
		}
	}
	return all
}

func TestNoticesAreLogged(t *testing.T) {
	const spendCap = `{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"},"message":"sk-cnry7f3a-notify-x is out of money"}}`
	type answer struct {
		status  int32
		body    string
		headers map[string]string
	}
	organization := answer{200, "", map[string]string{"anthropic-organization-id": "org-x"}}
	limited := answer{429, canary.Key("notify-said"), map[string]string{"retry-after": "7"}}
	for name, c := range map[string]struct {
		answers []answer // to leases of one key after the other
		want    []string
	}{
		"nothing to be said": {[]answer{{200, "", nil}, {400, "", nil}}, nil},
		"a key": {[]answer{{401, canary.Key("notify-said"), nil}}, []string{
			`level=WARN msg="refused by the provider (401)" domain=p event=key_suspect key=one group=one`}},
		"a quota": {[]answer{{429, spendCap, nil}}, []string{
			`level=WARN msg=quota_exhausted domain=p event=cooling_down group=one for=10m0s`}},
		"all limited": {[]answer{limited, limited}, []string{
			`level=INFO msg=rate_limited domain=p event=cooling_down group=one class=m for=7s`,
			`level=INFO msg=rate_limited domain=p event=cooling_down group=two class=m for=7s`,
			`level=WARN msg="all 2 quota groups were answered 429 within 10s: they may share a limit, such as that of one organisation or address, or somebody else uses it up" domain=p event=all_rate_limited class=m`}},
		"one organisation": {[]answer{organization, organization}, []string{
			`level=WARN msg="quota groups \"one\" and \"two\" belong to one organisation, \"org-x\", so their limits do not add up: configure them as one group" domain=p event=shared_organization group=two`}},
		"a model": {[]answer{{403, "", nil}}, []string{
			`level=INFO msg=forbidden domain=p event=cooling_down key=one group=one class=m for=10m0s`}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, `
server: {listen: "127.0.0.1:0", plaintext: true}
store: {type: memory}
audit: {path: `+filepath.Join(canary.Dir(t), "audit.jsonl")+`}
providers:
- {name: p, type: anthropic, models: [m], keys: [{id: one, key: sk-cnry7f3a-notify-1}, {id: two, key: sk-cnry7f3a-notify-2}]}
`)
			logged := &lines{}
			a, err := app.New(t.Context(), cfg, app.Options{Logger: slog.New(twice{slog.NewTextHandler(logged, nil), canary.Logger("the broker's log").Handler()})})
			require.NoError(t, err)
			var running sync.WaitGroup
			running.Go(func() { assert.NoError(t, a.Run(t.Context())) })
			t.Cleanup(running.Wait)
			conn, err := grpc.NewClient(a.Addr().String(), append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			keys := keybrokerv1.NewKeyBrokerServiceClient(conn)
			for i, x := range c.answers {
				l, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p", ExcludeKeyIds: []string{[]string{"two", "one"}[i]}})
				require.NoError(t, err)
				_, err = keys.ReportUsage(t.Context(), &keybrokerv1.ReportUsageRequest{
					LeaseId: l.GetLeaseId(), StatusCode: x.status, ErrorBody: []byte(x.body), Headers: x.headers, Final: true,
				})
				require.NoError(t, err)
			}
			assert.Equal(t, c.want, logged.events())
			assert.NotContains(t, logged.text.String(), canary.Mark)
		})
	}
}

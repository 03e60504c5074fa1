package app_test

// What people read in the log of what happens to keys, and what they do not.

import (
	"bytes"
	"log/slog"
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
	const spendCap = `{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"},"message":"sk-secret-x is out of money"}}`
	type answer struct {
		status  int32
		body    string
		headers map[string]string
	}
	organization := answer{200, "", map[string]string{"anthropic-organization-id": "org-x"}}
	limited := answer{429, "sk-secret", map[string]string{"retry-after": "7"}}
	for name, c := range map[string]struct {
		answers []answer // to leases of one key after the other
		want    []string
	}{
		"nothing to be said": {[]answer{{200, "", nil}, {400, "", nil}}, nil},
		"a key": {[]answer{{401, "sk-secret", nil}}, []string{
			`level=WARN msg="refused by the provider (401)" pool=p event=key_suspect key=one group=one`}},
		"a quota": {[]answer{{429, spendCap, nil}}, []string{
			`level=WARN msg=quota_exhausted pool=p event=resting group=one for=10m0s`}},
		"all limited": {[]answer{limited, limited}, []string{
			`level=INFO msg=rate_limited pool=p event=resting group=one class=m for=7s`,
			`level=INFO msg=rate_limited pool=p event=resting group=two class=m for=7s`,
			`level=WARN msg="all 2 quota groups were answered 429 within 10s: they may share a limit, such as that of one organisation or address, or somebody else uses it up" pool=p event=all_rate_limited class=m`}},
		"one organisation": {[]answer{organization, organization}, []string{
			`level=WARN msg="quota groups \"one\" and \"two\" belong to one organisation, \"org-x\", so their limits do not add up: configure them as one group" pool=p event=shared_organization group=two`}},
		"a model": {[]answer{{403, "", nil}}, []string{
			`level=INFO msg=forbidden pool=p event=resting key=one group=one class=m for=10m0s`}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := parse(t, `
server: {listen: "127.0.0.1:0", plaintext: true}
store: {type: memory}
providers:
- {name: p, type: anthropic, models: [m], keys: [{id: one, key: sk-secret-1}, {id: two, key: sk-secret-2}]}
`)
			logged := &lines{}
			a, err := app.New(t.Context(), cfg, app.Options{Logger: slog.New(slog.NewTextHandler(logged, nil))})
			require.NoError(t, err)
			var running sync.WaitGroup
			running.Go(func() { assert.NoError(t, a.Run(t.Context())) })
			t.Cleanup(running.Wait)
			conn, err := grpc.NewClient(a.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
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
			assert.NotContains(t, logged.text.String(), "sk-secret")
		})
	}
}

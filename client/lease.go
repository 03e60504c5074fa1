package client

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Lease is a key for one request. Times are counted on the monotonic clock from
// the moment before the broker was asked, so that they end here first. It prints
// without its key.
type Lease struct {
	grant *grant
	asked [4]int64 // as Usage: what was asked for
	used  [4]int64 // what has been reported, or was asked for if nobody knows
	ended bool     // both under the grant's lock
}

// Key is the key itself. It is not to be logged, stored or passed on.
func (l *Lease) Key() string { return l.grant.resp.GetApiKey() }

// KeyID is the key's name, which may be told to anybody.
func (l *Lease) KeyID() string { return l.grant.resp.GetKeyId() }

// Pool is where the key came from: the pool asked for, or another one that serves.
func (l *Lease) Pool() string { return l.grant.resp.GetPool() }

// Provider is the type of the provider: "anthropic".
func (l *Lease) Provider() string { return l.grant.resp.GetProviderType() }

// BaseURL is where requests go.
func (l *Lease) BaseURL() string { return l.grant.resp.GetBaseUrl() }

// Header is the header that carries the key, and its value.
func (l *Lease) Header() (name, value string) {
	return http.CanonicalHeaderKey(l.grant.resp.GetAuthHeader()), l.grant.resp.GetAuthPrefix() + l.grant.resp.GetApiKey()
}

// Waited is how long the call stood in the broker's line.
func (l *Lease) Waited() time.Duration { return l.grant.resp.GetWaited().AsDuration() }

// StartLeft is how long the request may still be sent; 0 or less is too late.
func (l *Lease) StartLeft() time.Duration { return time.Until(l.grant.startBy) }

// TimeLeft is how long the lease lives without a report.
func (l *Lease) TimeLeft() time.Duration {
	l.grant.mu.Lock()
	defer l.grant.mu.Unlock()
	return time.Until(l.grant.expires)
}

// Authorize sets the key on a request, in place of all other credentials. The
// request is changed, so it should be a clone of what others still use. It is an
// error to do so for a host that is not the provider's, ErrHost, or too late or
// after the lease has ended, ErrLate.
func (l *Lease) Authorize(r *http.Request) error {
	if err := l.allows(r.URL); err != nil {
		return err
	}
	l.grant.mu.Lock()
	ended := l.ended
	l.grant.mu.Unlock()
	switch {
	case ended:
		return fmt.Errorf("keybroker: %w: it has ended", ErrLate)
	case l.StartLeft() <= 0:
		return fmt.Errorf("keybroker: %w", ErrLate)
	}
	strip(r)
	if r.Header == nil {
		r.Header = http.Header{}
	}
	name, value := l.Header()
	r.Header.Set(name, value)
	return nil
}

// strip takes all credentials off a request, and a host that is not its URL's.
func strip(r *http.Request) {
	for name := range r.Header { // as they are written: not all who set them ask net/http how
		if isCredentialHeader(name) {
			delete(r.Header, name)
		}
	}
	stripQuery(r.URL)
	r.URL.User, r.Host = nil, ""
}

func isCredentialHeader(name string) bool {
	return slices.Contains(provider.CredentialHeaders[:], http.CanonicalHeaderKey(name))
}

func (l *Lease) allows(u *url.URL) error {
	d, ok := provider.Lookup(l.Provider())
	if !ok { // a broker newer than this client: its own address and nothing else
		d = &provider.Dialect{}
	}
	if !d.Allows(u, l.BaseURL()) {
		return fmt.Errorf("keybroker: %w: a key of pool %q must not go to %q; its provider is at %s", ErrHost, l.Pool(), u.Host, l.BaseURL())
	}
	return nil
}

// stripQuery drops the parameters that carry credentials, and leaves the order of
// the others.
func stripQuery(u *url.URL) {
	pairs := strings.FieldsFunc(u.RawQuery, func(c rune) bool { return c == '&' || c == ';' }) // some servers split at both
	kept := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		return err == nil && isCredential(name)
	})
	if len(kept) < len(pairs) {
		u.RawQuery = strings.Join(kept, "&")
	}
}

func isCredential(parameter string) bool {
	for _, c := range provider.CredentialQuery {
		if strings.EqualFold(parameter, c) {
			return true
		}
	}
	return false
}

// Usage is what a request has used, in the provider's own terms. A field that is
// nil is not known.
type Usage struct {
	InputTokens, CacheCreationInputTokens, CacheReadInputTokens, OutputTokens *int64
}

// UsageOf reads what the body of an answer says of its use: JSON, or a stream of
// events.
func UsageOf(body []byte) Usage {
	var b provider.Body
	_, _ = b.Write(body)
	return usage(b.Usage())
}

// Report is what the provider answered, as far as it is known.
type Report struct {
	Status int         // 0 if no answer came
	Header http.Header // those about limits are sent, and no others
	Usage  Usage       // so far
	// ErrorBody is the body of an error, or the event that ended a stream with
	// one. Its beginning is enough.
	ErrorBody []byte
	// Final ends the lease.
	Final bool
}

// Report tells the broker what came back. A report that is not final renews the
// lease. After the lease has ended it does nothing. A request of a lease that is
// shared with others is reported together with them, a moment later, and the
// error is always nil.
//
// The errors are ErrUnavailable, ErrDenied if the broker does not know the lease,
// ErrInvalid, ErrClosed and the context's. While no broker can be reached, and
// after the context has ended, the client goes on trying as long as the lease
// lives: there is no need to repeat a report.
func (l *Lease) Report(ctx context.Context, r Report) error {
	p := newPendingReport(r.Status, r.Header, r.ErrorBody)
	if l.grant.shared() {
		l.note(p, r.Usage, r.Final)
		return nil
	}
	done := make(chan error, 1)
	p.done = done
	if !l.note(p, r.Usage, r.Final) {
		return nil
	}
	return heard(ctx, done)
}

func heard(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("keybroker: %w", ctx.Err())
	}
}

// note adds what is known of the request to its grant, and has it told. It reports
// false if the lease has ended.
func (l *Lease) note(p *pendingReport, u Usage, final bool) bool {
	p.coolsDown = p.refusal() && l.signal(p).Scope != provider.NoScope
	g := l.grant
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.ended {
		return false
	}
	for i, known := range [...]*int64{u.InputTokens, u.CacheCreationInputTokens, u.CacheReadInputTokens, u.OutputTokens} {
		switch {
		case known != nil:
			g.count(l, i, *known)
		case !final:
		case i == outputTokens && provider.NoOutput(p.status):
			g.count(l, i, 0)
		case g.shared(): // nobody knows: as much as was asked for
			g.count(l, i, l.asked[i])
		default: // and what was reported so far is not all
			g.stated[i] = false
		}
	}
	if final {
		l.ended = true
		g.open--
	}
	if p.coolsDown && !g.closed { // the others would fare no better
		g.stop()
	}
	g.tell(p)
	return true
}

// signal is what an answer means. A provider that this client does not know is
// taken for an ordinary one.
func (l *Lease) signal(p *pendingReport) provider.Signal {
	d, ok := provider.Lookup(l.Provider())
	if !ok {
		d, _ = provider.Lookup("generic")
	}
	header := make(http.Header, len(p.header))
	for name, value := range p.header {
		header.Set(name, value)
	}
	return d.Read(provider.Response{Status: p.status, Header: header, Body: p.errorBody})
}

const outputTokens = 3 // in the order of Usage's fields

// count takes in what a request has used so far, which never falls.
func (g *grant) count(l *Lease, i int, n int64) {
	if n = min(n, mostReported); n > l.used[i] {
		g.used[i] += n - l.used[i]
		l.used[i] = n
	}
	g.stated[i] = true
}

// Release ends the lease without a report: what it reserved stays counted. With
// unused, the provider was never called, and what was reserved comes back. The
// errors are those of Report.
func (l *Lease) Release(ctx context.Context, unused bool) error {
	if !unused {
		return l.Report(ctx, Report{Final: true})
	}
	if l.grant.shared() {
		l.unsent(nil)
		return nil
	}
	done := make(chan error, 1)
	if !l.unsent(&pendingReport{done: done}) {
		return nil
	}
	return heard(ctx, done)
}

// unsent ends the lease of a request that was never sent. It reports false if it
// has ended before.
func (l *Lease) unsent(p *pendingReport) bool {
	g := l.grant
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.ended {
		return false
	}
	l.ended = true
	g.sent--
	g.open--
	g.tell(p)
	return true
}

// String names the lease without its key.
func (l *Lease) String() string {
	return fmt.Sprintf("lease of key %q in pool %q", l.KeyID(), l.Pool())
}

// Format makes every verb print the lease without its key.
func (l *Lease) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// LogValue logs the lease without its key.
func (l *Lease) LogValue() slog.Value {
	return slog.GroupValue(slog.String("key", l.KeyID()), slog.String("pool", l.Pool()))
}

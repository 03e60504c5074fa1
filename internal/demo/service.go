package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
)

// service is one of the fleet: it leases a key, calls the provider itself, and
// reports what came back. It shows the whole of what a client has to do.
type service struct {
	name, pool, model string
	broker            keybrokerv1.KeyBrokerServiceClient
	web               *http.Client
	tally             *tally
}

const (
	inputTokens = 100
	maxTokens   = 128
	longestWait = 10 * time.Second

	mostErrorBody = 16 << 10
)

// connect gives the service a connection of its own, as another process has.
func (s *service) connect(target string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		s.broker = keybrokerv1.NewKeyBrokerServiceClient(conn)
	}
	return conn, err
}

// work makes calls, one after another, until the context ends.
func (s *service) work(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "keybroker-holder", s.name)
	for ctx.Err() == nil {
		if err := s.call(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (s *service) call(ctx context.Context) error {
	asked := time.Now()
	lease, err := s.broker.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{
		Pool: s.pool, Model: s.model, InputTokens: inputTokens, MaxOutputTokens: maxTokens,
		MaxWait: durationpb.New(longestWait),
	})
	if status.Code(err) == codes.ResourceExhausted { // nothing came free in time
		s.tally.refused()
		return nil
	}
	if err != nil {
		return err
	}
	s.tally.waited(time.Since(asked))
	if time.Since(asked) >= lease.GetStartWithin().AsDuration() { // too late to send: others may have the room
		_, err = s.broker.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: lease.GetLeaseId(), Unused: true})
		return err
	}
	report, err := s.send(ctx, lease)
	if err != nil {
		return err
	}
	s.tally.answered(s.name, int(report.StatusCode))
	_, err = s.broker.ReportUsage(ctx, report)
	return err
}

// send calls the provider with the leased key.
func (s *service) send(ctx context.Context, l *keybrokerv1.AcquireKeyResponse) (*keybrokerv1.ReportUsageRequest, error) {
	path := "/chat/completions"
	if l.GetProviderType() == "anthropic" {
		path = "/v1/messages"
	}
	body, err := json.Marshal(map[string]any{
		"model": s.model, "max_tokens": maxTokens,
		"messages": []any{map[string]string{"role": "user", "content": strings.Repeat("word ", 20+rand.IntN(40))}}, // #nosec G404 -- a demo's chatter
	})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.GetBaseUrl()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(l.GetAuthHeader(), l.GetAuthPrefix()+l.GetApiKey())
	resp, err := s.web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	report := &keybrokerv1.ReportUsageRequest{
		LeaseId: l.GetLeaseId(), StatusCode: int32(resp.StatusCode), Headers: limitHeaders(resp.Header), Final: true,
	}
	if resp.StatusCode >= 400 {
		report.ErrorBody, err = io.ReadAll(io.LimitReader(resp.Body, mostErrorBody))
		return report, err
	}
	var answer provider.Body
	_, err = io.Copy(&answer, resp.Body)
	report.Usage, report.ErrorBody = usage(answer.Usage()), answer.Error()
	return report, err
}

// limitHeaders keeps what the broker can use.
func limitHeaders(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if provider.Forward(name) {
			out[name] = strings.Join(values, ", ")
		}
	}
	return out
}

// usage puts what an answer says was used into a report.
func usage(u provider.Usage) *keybrokerv1.Usage {
	known := func(n int64) *int64 {
		if n == provider.Unknown {
			return nil
		}
		return &n
	}
	return &keybrokerv1.Usage{
		InputTokens: known(u.Input), CacheCreationInputTokens: known(u.CacheWrite),
		CacheReadInputTokens: known(u.CacheRead), OutputTokens: known(u.Output),
	}
}

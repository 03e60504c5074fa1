package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
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
		"messages": []any{map[string]string{"role": "user", "content": strings.Repeat("word ", 20+rand.IntN(40))}},
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
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return &keybrokerv1.ReportUsageRequest{
		LeaseId: l.GetLeaseId(), StatusCode: int32(resp.StatusCode), Headers: limitHeaders(resp.Header),
		Usage: usage(answer), Final: true,
	}, nil
}

// limitHeaders keeps what the broker can use.
func limitHeaders(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if n := strings.ToLower(name); strings.Contains(n, "ratelimit") || strings.HasPrefix(n, "retry-after") || n == "date" {
			out[textproto.CanonicalMIMEHeaderKey(name)] = strings.Join(values, ", ")
		}
	}
	return out
}

// usage reads what either surface says was used.
func usage(answer []byte) *keybrokerv1.Usage {
	var a struct {
		Usage struct {
			Input      *int64 `json:"input_tokens"`
			Output     *int64 `json:"output_tokens"`
			Prompt     *int64 `json:"prompt_tokens"`
			Completion *int64 `json:"completion_tokens"`
		} `json:"usage"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return nil
	}
	u := &keybrokerv1.Usage{InputTokens: a.Usage.Input, OutputTokens: a.Usage.Output}
	if u.InputTokens == nil {
		u.InputTokens, u.OutputTokens = a.Usage.Prompt, a.Usage.Completion
	}
	return u
}

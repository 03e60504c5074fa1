package sdktest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func TestAnthropic(t *testing.T) {
	prove(t, &sdk{
		name: "anthropic", provider: "anthropic", model: "claude-haiku-4-5",
		outside: []string{"ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"},
		plain: func(ctx context.Context, w *world) (string, error) {
			var resp *http.Response
			m, err := newAnthropic(w).Messages.New(ctx, message(w), option.WithResponseInto(&resp))
			w.show(resp)
			if err != nil {
				return "", err
			}
			w.show(m)
			return m.Content[0].Text, nil
		},
		stream: func(ctx context.Context, w *world, each func(string) bool) error {
			var resp *http.Response
			s := newAnthropic(w).Messages.NewStreaming(ctx, message(w), option.WithResponseInto(&resp))
			defer s.Close()
			defer func() { w.show(resp) }()
			for s.Next() {
				if !each(s.Current().Delta.Text) {
					return s.Close()
				}
			}
			return s.Err()
		},
		failure: func(w *world, err error) *failure {
			var e *anthropic.Error
			if !errors.As(err, &e) {
				return nil
			}
			w.show(e.DumpRequest(true), e.DumpResponse(true), e.Request.Header, e.RawJSON(), e.Response)
			var body struct{ Error struct{ Message string } }
			if json.Unmarshal([]byte(e.RawJSON()), &body) != nil {
				return nil
			}
			return &failure{e.StatusCode, string(e.Type()), body.Error.Message, e.Response.Header.Get("Retry-After")}
		},
		busy: 529, limited: "rate_limit_error", refusals: "This request would exceed the rate limit", output: "otpm", obeys: true,
	})
}

func newAnthropic(w *world) *anthropic.Client {
	opts := []option.RequestOption{
		option.WithAPIKey(placeholder), option.WithBaseURL(w.url), option.WithHTTPClient(w.http()), option.WithMaxRetries(w.retries),
	}
	if !w.fromEnv {
		opts = append(opts, option.WithoutEnvironmentDefaults())
	}
	c := anthropic.NewClient(opts...)
	return &c
}

func message(w *world) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(w.sdk.model), MaxTokens: maxTokens,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
	}
}

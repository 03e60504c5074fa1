package sdktest

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

func TestOpenAIChat(t *testing.T) {
	prove(t, &sdk{
		name: "openai chat", provider: "openai", prefix: "/v1", model: "gpt-4o", outside: openAIVariables,
		plain: func(ctx context.Context, w *world) (string, error) {
			var resp *http.Response
			c, err := newOpenAI(w).Chat.Completions.New(ctx, chat(w, false), option.WithResponseInto(&resp))
			w.show(resp)
			if err != nil {
				return "", err
			}
			w.show(c)
			return c.Choices[0].Message.Content, nil
		},
		stream: func(ctx context.Context, w *world, each func(string) bool) error {
			var resp *http.Response
			s := newOpenAI(w).Chat.Completions.NewStreaming(ctx, chat(w, true), option.WithResponseInto(&resp))
			defer s.Close()
			defer func() { w.show(resp) }()
			for s.Next() {
				for _, choice := range s.Current().Choices {
					if !each(choice.Delta.Content) {
						return s.Close()
					}
				}
			}
			return s.Err()
		},
		failure: openAIFailure,
		busy:    503, limited: "rate_limit_exceeded", refusals: "Rate limit reached for gpt-4o", output: "tpm", staysHome: true, obeys: true,
	})
}

func TestOpenAIResponses(t *testing.T) {
	prove(t, &sdk{
		name: "openai responses", provider: "openai", prefix: "/v1", model: "gpt-4o-mini", outside: openAIVariables,
		plain: func(ctx context.Context, w *world) (string, error) {
			var resp *http.Response
			r, err := newOpenAI(w).Responses.New(ctx, response(w), option.WithResponseInto(&resp))
			w.show(resp)
			if err != nil {
				return "", err
			}
			w.show(r)
			return r.OutputText(), nil
		},
		stream: func(ctx context.Context, w *world, each func(string) bool) error {
			var resp *http.Response
			s := newOpenAI(w).Responses.NewStreaming(ctx, response(w), option.WithResponseInto(&resp))
			defer s.Close()
			defer func() { w.show(resp) }()
			for s.Next() {
				if e := s.Current(); e.Type == "response.output_text.delta" && !each(e.Delta) {
					return s.Close()
				}
			}
			return s.Err()
		},
		failure: openAIFailure,
		busy:    503, limited: "rate_limit_exceeded", refusals: "Rate limit reached for gpt-4o-mini", output: "tpm", staysHome: true, obeys: true,
	})
}

var openAIVariables = []string{"OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"}

func newOpenAI(w *world) *openai.Client {
	c := openai.NewClient(
		option.WithAPIKey(placeholder), option.WithBaseURL(w.url+"/v1"), option.WithHTTPClient(w.http()), option.WithMaxRetries(w.retries),
	)
	return &c
}

func chat(w *world, stream bool) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{
		Model: w.sdk.model, MaxCompletionTokens: openai.Int(maxTokens),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
	}
	if stream { // without it, nobody learns what was used
		p.StreamOptions.IncludeUsage = openai.Bool(true)
	}
	return p
}

func response(w *world) responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: w.sdk.model, MaxOutputTokens: openai.Int(maxTokens),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(prompt)},
	}
}

func openAIFailure(w *world, err error) *failure {
	var e *openai.Error
	if !errors.As(err, &e) {
		return nil
	}
	w.show(e.DumpRequest(true), e.DumpResponse(true), e.Request.Header, e.RawJSON(), e.Response)
	return &failure{e.StatusCode, e.Code, e.Message, e.Response.Header.Get("Retry-After")}
}

package sdktest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genai"
)

func TestGenAI(t *testing.T) {
	prove(t, &sdk{
		name: "genai", provider: "gemini", model: "gemini-2.5-flash",
		outside: []string{"GOOGLE_API_KEY", "GEMINI_API_KEY"},
		plain: func(ctx context.Context, w *world) (string, error) {
			r, err := newGenAI(w).Models.GenerateContent(ctx, w.sdk.model, genai.Text(prompt), content)
			if err != nil {
				return "", err
			}
			w.show(r, r.SDKHTTPResponse)
			return r.Text(), nil
		},
		stream: func(ctx context.Context, w *world, each func(string) bool) error {
			for r, err := range newGenAI(w).Models.GenerateContentStream(ctx, w.sdk.model, genai.Text(prompt), content) {
				if err != nil {
					return err
				}
				if w.show(r, r.SDKHTTPResponse); !each(r.Text()) {
					return nil
				}
			}
			return nil
		},
		failure: func(w *world, err error) *failure {
			var e genai.APIError
			if !errors.As(err, &e) {
				return nil
			}
			wait := "" // this SDK shows no headers
			for _, d := range e.Details {
				if d["@type"] == "type.googleapis.com/google.rpc.RetryInfo" {
					delay, _ := d["retryDelay"].(string)
					wait = strings.TrimSuffix(delay, "s")
				}
			}
			return &failure{e.Code, e.Status, e.Message, wait}
		},
		busy: 503, limited: "RESOURCE_EXHAUSTED", refusals: "You exceeded your current quota", inputOnly: true,
	})
}

var content = &genai.GenerateContentConfig{MaxOutputTokens: maxTokens}

func newGenAI(w *world) *genai.Client {
	c, err := genai.NewClient(context.Background(), &genai.ClientConfig{
		Backend: genai.BackendGeminiAPI, APIKey: placeholder,
		HTTPClient: w.http(), HTTPOptions: genai.HTTPOptions{BaseURL: w.url},
	})
	require.NoError(w, err)
	return c
}

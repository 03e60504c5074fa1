package client_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/keybroker/keybroker/client"
)

// The transport leases, sets the key, reports, and tries another key where one is
// refused. The request needs no credential.
func ExampleClient_HTTP() {
	c, err := client.New("127.0.0.1:7070", client.WithHolder("invoices"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	web := c.HTTP("anthropic") // the pool

	req, err := http.NewRequest(http.MethodPost, "https://api.anthropic.com/v1/messages", strings.NewReader(
		`{"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]}`))
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("anthropic-version", "2023-06-01")
	resp, err := web.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // what was used is reported at its end
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Status, len(body))
}

// Without the transport: lease, send within l.StartLeft, report.
func ExampleClient_Acquire() {
	c, err := client.New("127.0.0.1:7070")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	l, err := c.Acquire(ctx, client.Request{Pool: "openai", Model: "gpt-4o", InputTokens: 900, MaxOutputTokens: 300})
	var exhausted *client.ExhaustedError
	if errors.As(err, &exhausted) {
		log.Printf("no %s left in %s; in %v there will be", exhausted.Dimension, exhausted.Pool, exhausted.Retry)
		return
	}
	if err != nil {
		log.Fatal(err)
	}

	req, err := http.NewRequest(http.MethodPost, l.BaseURL()+"/chat/completions", strings.NewReader(`{"model": "gpt-4o"}`))
	if err != nil {
		log.Fatal(err)
	}
	if err := l.Authorize(req); err != nil { // sets the key, for the provider's own hosts only
		log.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil { // perhaps it was sent: what was reserved stays counted
		_ = l.Release(ctx, false)
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	err = l.Report(ctx, client.Report{Status: resp.StatusCode, Header: resp.Header, Usage: client.UsageOf(body), Final: true})
	if err != nil {
		log.Print(err)
	}
}

// A hint says what the body of a request does not.
func ExampleWithHint() {
	ctx := client.WithHint(context.Background(), client.Hint{Model: "whisper-1", InputTokens: 3000})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.openai.com/v1/audio/transcriptions", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(req.URL)
	// Output: https://api.openai.com/v1/audio/transcriptions
}

// Hooks feed metrics, of whatever kind.
func ExampleWithHooks() {
	requests := expvar.NewMap("llm_requests")
	tokens := expvar.NewMap("llm_tokens")
	c, err := client.New("127.0.0.1:7070", client.WithHooks(client.Hooks{
		Answered: func(_ context.Context, a client.Answered) { requests.Add(a.Pool+" "+a.Outcome, 1) },
		Finished: func(_ context.Context, f client.Finished) {
			if n := f.Usage.OutputTokens; n != nil {
				tokens.Add(f.Model, *n)
			}
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}

package sandbox

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// sliceTokens is how much is generated, charged and sent at a time.
	sliceTokens = 8

	// mostOutput caps an answer, so that no request can fill the memory.
	mostOutput = 1 << 20

	// mostInput caps the override, so that sums of tokens stay in range.
	mostInput = 1 << 40
)

// vocabulary is what answers are made of; one word is one token.
var vocabulary = strings.Fields(`the sandbox answers with words that mean nothing at all and
	costs as little while every token is counted as if it were real`)

// words is the text of tokens from to from+n of an answer.
func words(from, n int64) string {
	var b strings.Builder
	for i := from; i < from+n; i++ {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(vocabulary[i%int64(len(vocabulary))])
	}
	return b.String()
}

// size settles how much input a request counts and how much output it will
// get, by its headers or else by estimate and by lot.
func (s *Server) size(req *request, h http.Header, nth uint64) error {
	wanted := int64(s.options.OutputTokens)
	draw := rand.New(rand.NewPCG(s.options.Seed, nth)) // #nosec G404 -- is to be repeatable
	wanted = max(1, wanted/2+draw.Int64N(wanted+1))

	if err := override(&req.input, h, "x-sandbox-input-tokens", mostInput); err != nil {
		return err
	}
	if err := override(&wanted, h, "x-sandbox-output-tokens", mostOutput); err != nil {
		return err
	}
	if req.silent {
		return nil
	}
	req.output = min(wanted, mostOutput)
	if req.maxOutput > 0 && req.output > req.maxOutput {
		req.output, req.maxed = req.maxOutput, true
	}
	return nil
}

func override(n *int64, h http.Header, name string, most int64) error {
	v := h.Get(name)
	if v == "" {
		return nil
	}
	got, err := strconv.ParseInt(v, 10, 64)
	if err != nil || got < 0 || got > most {
		return &badRequest{message: name + ": must be a number from 0 to " + strconv.FormatInt(most, 10)}
	}
	*n = got
	return nil
}

// generate produces the answer of an admitted request slice by slice, each
// charged before it is emitted, until it is complete, the client is gone or
// emit fails. It gives the request's slot back when it returns: before the
// answer's last bytes, so that who has read an answer can ask again.
func (s *Server) generate(ctx context.Context, x *exchange, d demand, begin func() error, emit func(text string) error) error {
	defer x.account.release(x.class)
	if err := sleep(ctx, s.options.Latency); err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	for x.produced < x.output {
		n := min(sliceTokens, x.output-x.produced)
		if err := sleep(ctx, s.duration(n)); err != nil {
			return err
		}
		x.account.generated(x.class, s.elapsed(), d, n)
		text := words(x.produced, n)
		x.produced += n
		x.text.WriteString(text)
		if err := emit(text); err != nil {
			return err
		}
	}
	return nil
}

// duration is how long it takes to generate n tokens.
func (s *Server) duration(n int64) time.Duration {
	if s.options.TokensPerSecond <= 0 {
		return 0
	}
	return time.Duration(n) * time.Second / time.Duration(s.options.TokensPerSecond)
}

// sleep waits for d, or returns early with the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// estimate is the number of tokens in the texts of some JSON values: a
// quarter of their bytes, rounded up. Texts are strings, and the strings
// under "text", "content" and "parts" of the objects within.
func estimate(values ...json.RawMessage) int64 {
	var bytes int64
	for _, raw := range values {
		var v any
		if json.Unmarshal(raw, &v) == nil { // absent values are empty
			bytes += textBytes(v)
		}
	}
	return (bytes + 3) / 4
}

func textBytes(v any) (n int64) {
	switch v := v.(type) {
	case string:
		return int64(len(v))
	case []any:
		for _, e := range v {
			n += textBytes(e)
		}
	case map[string]any:
		n = textBytes(v["text"]) + textBytes(v["content"]) + textBytes(v["parts"])
	}
	return n
}

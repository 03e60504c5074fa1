package sdktest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// OpenTelemetry's own handler traces calls to the broker as parts of the request
// for which they are made, and no span has a key.
func TestOpenTelemetry(t *testing.T) {
	w := begin(t, &sdk{name: "otel", provider: "openai", prefix: "/v1", model: "gpt-4o"}, setup{})
	spans := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	c, err := client.New(w.target, client.WithDialOptions(
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(tracer)))))
	require.NoError(t, err)
	ctx, span := tracer.Tracer("test").Start(t.Context(), "request")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/chat/completions",
		strings.NewReader(`{"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}`))
	require.NoError(t, err)
	tr := c.Transport("pool")
	tr.Base = w.base
	resp, err := tr.RoundTrip(r)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	span.End()
	require.NoError(t, c.Close())

	found := false
	for _, s := range spans.Ended() {
		canary.Object("a span", s)
		canary.Text("a span", fmt.Sprintf("%+v %v %v %v %v %v", tracetest.SpanStubFromReadOnlySpan(s), s.Name(), s.Attributes(), s.Events(), s.Status(), s.Resource()))
		if strings.HasSuffix(s.Name(), "/AcquireKey") {
			found = true
			assert.Equal(t, span.SpanContext().SpanID(), s.Parent().SpanID())
		}
	}
	assert.True(t, found, "AcquireKey is traced")
}

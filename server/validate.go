package server

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
)

// What a request may hold.
const (
	maxTokens      = int64(1e15)
	maxName        = 256 // bytes of a pool, model or key id
	maxRequestID   = 128 // bytes
	maxExclude     = 64
	maxHeaders     = 256
	maxHeaderBytes = 64 << 10
	maxErrorBody   = 64 << 10
	maxRequests    = 10_000 // that a lease may be good for
)

func validAcquire(r *keybrokerv1.AcquireKeyRequest) (broker.Request, error) {
	out := broker.Request{
		Pool: r.GetPool(), Model: r.GetModel(), Exclude: r.GetExcludeKeyIds(), Request: r.GetRequestId(),
		Demand: provider.Demand{InputTokens: r.GetInputTokens(), MaxOutputTokens: r.GetMaxOutputTokens()},
	}
	if r.GetPool() == "" && r.GetModel() == "" {
		return out, invalidf("pool", "name a pool or a model")
	}
	if strings.HasPrefix(out.Model, "sk-") {
		return out, invalidf("model", "looks like a key; a model's name is shown to others")
	}
	for _, f := range []struct {
		field, value string
		most         int
	}{{"pool", out.Pool, maxName}, {"model", out.Model, maxName}, {"request_id", out.Request, maxRequestID}} {
		if err := validLength(f.field, f.value, f.most); err != nil {
			return out, err
		}
	}
	if len(out.Exclude) > maxExclude {
		return out, invalidf("exclude_key_ids", "has %d entries, at most %d", len(out.Exclude), maxExclude)
	}
	for i, id := range out.Exclude {
		if err := validLength("exclude_key_ids["+strconv.Itoa(i)+"]", id, maxName); err != nil {
			return out, err
		}
	}
	if err := validTokens("input_tokens", out.Demand.InputTokens); err != nil {
		return out, err
	}
	if err := validTokens("max_output_tokens", out.Demand.MaxOutputTokens); err != nil {
		return out, err
	}
	if n := r.GetRequests(); n < 0 || n > maxRequests {
		return out, invalidf("requests", "is %d, must be 0 to %d", n, maxRequests)
	}
	out.Count = int(r.GetRequests())
	var err error
	if out.MaxWait, err = validDuration("max_wait", r.GetMaxWait()); err != nil {
		return out, err
	}
	if out.TTL, err = validDuration("ttl", r.GetTtl()); err != nil {
		return out, err
	}
	if r.GetTtl() != nil && out.TTL == 0 {
		return out, invalidf("ttl", "must be above zero; leave it out for the pool's default")
	}
	return out, nil
}

func validLength(field, value string, most int) error {
	if len(value) > most {
		return invalidf(field, "is %d bytes long, at most %d", len(value), most)
	}
	return nil
}

func validTokens(field string, n int64) error {
	if n < 0 || n > maxTokens {
		return invalidf(field, "is %d, must be 0 to %d", n, maxTokens)
	}
	return nil
}

func validDuration(field string, d *durationpb.Duration) (time.Duration, error) {
	switch {
	case d == nil:
		return 0, nil
	case d.CheckValid() != nil:
		return 0, invalidf(field, "is not a valid duration")
	case d.AsDuration() < 0:
		return 0, invalidf(field, "is %v, must not be negative", d.AsDuration())
	}
	return d.AsDuration(), nil
}

func validReport(r *keybrokerv1.ReportUsageRequest) (broker.Report, error) {
	out := broker.Report{Usage: provider.NoUsage, Last: r.GetNoMoreRequests(), Final: r.GetFinal()}
	out.Response.Status = int(r.GetStatusCode())
	if s := r.GetStatusCode(); s != 0 && (s < 100 || s > 999) {
		return out, invalidf("status_code", "is %d, must be an HTTP status or 0", s)
	}
	if len(r.GetHeaders()) > maxHeaders {
		return out, invalidf("headers", "has %d entries, at most %d; send those about limits only", len(r.GetHeaders()), maxHeaders)
	}
	size := 0
	for name, value := range r.GetHeaders() {
		if size += len(name) + len(value); size > maxHeaderBytes {
			return out, invalidf("headers", "is more than %d bytes; send those about limits only", maxHeaderBytes)
		}
	}
	out.Response.Header = header(r.GetHeaders())
	if out.Response.Body = r.GetErrorBody(); len(out.Response.Body) > maxErrorBody {
		return out, invalidf("error_body", "is %d bytes long, at most %d; its beginning is enough", len(out.Response.Body), maxErrorBody)
	}
	if u := r.GetUsage(); u != nil {
		for _, f := range []struct {
			field string
			value *int64
			out   *int64
		}{
			{"usage.input_tokens", u.InputTokens, &out.Usage.Input},
			{"usage.cache_creation_input_tokens", u.CacheCreationInputTokens, &out.Usage.CacheWrite},
			{"usage.cache_read_input_tokens", u.CacheReadInputTokens, &out.Usage.CacheRead},
			{"usage.output_tokens", u.OutputTokens, &out.Usage.Output},
			{"usage.requests", u.Requests, &out.Requests},
		} {
			if f.value == nil {
				continue
			}
			if err := validTokens(f.field, *f.value); err != nil {
				return out, err
			}
			*f.out = *f.value
		}
	}
	return out, nil
}

package server

import (
	"context"
	"maps"
	"net/http"
	"net/textproto"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
)

// keyService answers those who need keys.
type keyService struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	broker *broker.Broker
	keys   Keys
}

func (s *keyService) AcquireKey(ctx context.Context, req *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	r, err := validAcquire(req)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	r.Holder = holder(ctx)
	l, err := s.broker.Acquire(ctx, r)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	p := l.Pool
	resp := &keybrokerv1.AcquireKeyResponse{
		LeaseId: l.ID, KeyId: p.Keys[l.Key].ID, Pool: p.Name,
		ProviderType: p.Dialect.Type, BaseUrl: p.BaseURL,
		AuthHeader: p.Dialect.AuthHeader, AuthPrefix: p.Dialect.AuthPrefix,
		StartWithin: durationpb.New(l.StartWithin), Ttl: durationpb.New(l.TTL), Waited: durationpb.New(l.Waited),
		Requests: int32(l.Requests),
	}
	resp.ApiKey = s.keys(p.Name, l.Key).Reveal() // joined last, and nowhere else
	return resp, nil
}

func (s *keyService) ReportUsage(ctx context.Context, req *keybrokerv1.ReportUsageRequest) (*keybrokerv1.ReportUsageResponse, error) {
	report, err := validReport(req)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	ttl, settled, err := s.broker.Report(holder(ctx), req.GetLeaseId(), report)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	resp := &keybrokerv1.ReportUsageResponse{AlreadySettled: settled}
	if ttl > 0 {
		resp.Ttl = durationpb.New(ttl)
	}
	return resp, nil
}

func (s *keyService) ReleaseKey(ctx context.Context, req *keybrokerv1.ReleaseKeyRequest) (*keybrokerv1.ReleaseKeyResponse, error) {
	settled, err := s.broker.Release(holder(ctx), req.GetLeaseId(), req.GetUnused())
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	return &keybrokerv1.ReleaseKeyResponse{AlreadySettled: settled}, nil
}

// header gives reported headers their canonical names.
func header(in map[string]string) http.Header {
	out := make(http.Header, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) { // one spelling before another, always
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		out[canonical] = append(out[canonical], in[name])
	}
	return out
}

package server

import (
	"context"
	"maps"
	"net/http"
	"net/textproto"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/broker"
)

// keyService answers those who need keys.
type keyService struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	*Options
}

func (s *keyService) AcquireKey(ctx context.Context, req *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	l, err := s.acquire(ctx, req)
	if err != nil {
		err = s.acquireStatus(ctx, req.GetPool(), err)
		s.note(ctx, decisionOn(err), methodOf(ctx), err, req.GetPool())
		return nil, err
	}
	p := l.Pool
	resp := &keybrokerv1.AcquireKeyResponse{
		LeaseId: l.ID, KeyId: l.Key, Pool: p.Name,
		ProviderType: l.Dialect.Type, BaseUrl: p.BaseURL,
		AuthHeader: l.Dialect.AuthHeader, AuthPrefix: l.Dialect.AuthPrefix,
		StartWithin: durationpb.New(l.StartWithin), Ttl: durationpb.New(l.TTL), Waited: durationpb.New(l.Waited),
		Requests: int32(l.Requests),
	}
	resp.ApiKey = s.Keys(p.Name, l.Key).Reveal() // joined last, and nowhere else
	return resp, nil
}

// acquire leases a key, for whoever is allowed to and if it can be written down.
func (s *keyService) acquire(ctx context.Context, req *keybrokerv1.AcquireKeyRequest) (broker.Lease, error) {
	r, err := validAcquire(req)
	if err != nil {
		return broker.Lease{}, err
	}
	c := callerOf(ctx)
	if r.Instance, err = instanceOf(ctx); err != nil {
		return broker.Lease{}, err
	}
	r.Holder, r.May = c.holder, c.mayAcquire
	l, err := s.Broker.Acquire(ctx, r)
	if err != nil {
		return broker.Lease{}, err
	}
	if l.Waited > 0 { // meanwhile it may have been taken off the list
		c = s.caller(ctx)
		err = c.may(access.Acquire, l.Pool.Name)
	}
	if err == nil {
		err = s.granted(ctx, &l)
	}
	if err != nil {
		s.Broker.TakeBack(r.Holder, l.ID)
	}
	return l, err
}

// acquireStatus says whether it is a pool that is not there, or one that is not for
// the caller, to those only who may know which pools there are.
func (s *keyService) acquireStatus(ctx context.Context, pool string, err error) error {
	if pool != "" && !s.Broker.Has(pool, "") && callerOf(ctx).rights.May(access.Inspect, pool) {
		return poolStatus(ctx, pool, err)
	}
	return toStatus(ctx, err)
}

func (s *keyService) ReportUsage(ctx context.Context, req *keybrokerv1.ReportUsageRequest) (*keybrokerv1.ReportUsageResponse, error) {
	report, err := validReport(req)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	report.May = func(pool string) bool { return callerOf(ctx).rights.May(access.Acquire, pool) }
	ttl, settled, err := s.Broker.Report(ctx, callerOf(ctx).holder, req.GetLeaseId(), report)
	if err != nil {
		return nil, s.notTheirs(ctx, err)
	}
	if report.Final && !settled {
		s.ended(ctx, req.GetLeaseId())
	}
	resp := &keybrokerv1.ReportUsageResponse{AlreadySettled: settled}
	if ttl > 0 {
		resp.Ttl = durationpb.New(ttl)
	}
	return resp, nil
}

func (s *keyService) ReleaseKey(ctx context.Context, req *keybrokerv1.ReleaseKeyRequest) (*keybrokerv1.ReleaseKeyResponse, error) {
	settled, err := s.Broker.Release(ctx, callerOf(ctx).holder, req.GetLeaseId(), req.GetUnused())
	if err != nil {
		return nil, s.notTheirs(ctx, err)
	}
	if !settled {
		s.ended(ctx, req.GetLeaseId())
	}
	return &keybrokerv1.ReleaseKeyResponse{AlreadySettled: settled}, nil
}

// notTheirs answers who names a lease that is not its own.
func (s *keyService) notTheirs(ctx context.Context, err error) error {
	err = toStatus(ctx, err)
	s.note(ctx, decisionOn(err), methodOf(ctx), err, "")
	return err
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

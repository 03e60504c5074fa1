package server

import (
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// adminService answers operators.
type adminService struct {
	keybrokerv1.UnimplementedAdminServiceServer
	*Options
}

func (s *adminService) ListPools(ctx context.Context, _ *keybrokerv1.ListPoolsRequest) (*keybrokerv1.ListPoolsResponse, error) {
	resp := &keybrokerv1.ListPoolsResponse{}
	for _, v := range s.Broker.List() {
		if callerOf(ctx).may(access.Inspect, v.Pool.Name) == nil {
			resp.Pools = append(resp.Pools, summaryToProto(&v))
		}
	}
	return resp, nil
}

// may wants a pool named that the caller may do this to. The error is a status.
func (s *adminService) may(ctx context.Context, v access.Verb, pool string) error {
	if pool == "" {
		return toStatus(ctx, invalidf("pool", "name a pool; ListPools lists them"))
	}
	err := toStatus(ctx, callerOf(ctx).may(v, pool))
	if err != nil {
		s.note(ctx, audit.Denied, methodOf(ctx), err, pool)
	}
	return err
}

func (s *adminService) ListLeases(ctx context.Context, req *keybrokerv1.ListLeasesRequest) (*keybrokerv1.ListLeasesResponse, error) {
	if err := s.may(ctx, access.Inspect, req.GetPool()); err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return nil, toStatus(ctx, invalidf("page_size", "is %d, must not be negative", size))
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	var after uint64
	if token := req.GetPageToken(); token != "" {
		var err error
		if after, err = strconv.ParseUint(token, 10, 64); err != nil {
			return nil, toStatus(ctx, invalidf("page_token", "was not given by a previous page; leave it out to begin again"))
		}
	}
	v, leases, err := s.Broker.Leases(req.GetPool(), pool.LeaseID(after), size)
	if err != nil {
		return nil, poolStatus(ctx, req.GetPool(), err)
	}
	resp := &keybrokerv1.ListLeasesResponse{}
	for _, l := range leases {
		resp.Leases = append(resp.Leases, leaseToProto(&v, &l))
	}
	if len(leases) == size {
		resp.NextPageToken = strconv.FormatUint(uint64(leases[size-1].ID), 10)
	}
	return resp, nil
}

func (s *adminService) RestoreKey(ctx context.Context, req *keybrokerv1.RestoreKeyRequest) (*keybrokerv1.RestoreKeyResponse, error) {
	if err := s.may(ctx, access.Admin, req.GetPool()); err != nil {
		return nil, err
	}
	switch {
	case !s.Broker.Has(req.GetPool(), ""):
		return nil, poolStatus(ctx, req.GetPool(), broker.ErrUnknownPool)
	case !s.Broker.Has(req.GetPool(), req.GetKeyId()):
		return nil, toStatus(ctx, broker.ErrUnknownKey)
	}
	if err := s.restored(ctx, req.GetPool(), req.GetKeyId()); err != nil {
		return nil, toStatus(ctx, err)
	}
	if err := s.Broker.Restore(req.GetPool(), req.GetKeyId()); err != nil {
		return nil, poolStatus(ctx, req.GetPool(), err)
	}
	return &keybrokerv1.RestoreKeyResponse{}, nil
}

func summaryToProto(v *broker.View) *keybrokerv1.PoolSummary {
	s := &v.Snapshot.Summary
	return &keybrokerv1.PoolSummary{
		Name: v.Pool.Name, ProviderType: v.Domain.Dialect.Type,
		Keys: int32(s.KeyCount), AvailableKeys: int32(s.Available),
		OpenLeases: int64(s.Open), Waiters: int32(s.Waiters),
		Counters: &keybrokerv1.Counters{
			Granted: s.Counters.Granted, Refused: v.Refused, Released: s.Counters.Released, Expired: s.Counters.Expired,
			RateLimited: s.Counters.RateLimited, AuthFailed: s.Counters.AuthFailed,
		},
	}
}

// poolToProto leaves out the names of pools that the caller may not inspect.
func poolToProto(c *caller, v *broker.View) *keybrokerv1.Pool {
	p := stateToProto(v)
	p.BaseUrl, p.Strategy = v.Pool.BaseURL, v.Pool.Strategy
	p.Models, p.StartWithin = v.Pool.Models, durationpb.New(v.Pool.StartWithin)
	p.Fallback = slices.DeleteFunc(slices.Clone(v.Pool.Fallback), func(name string) bool { return c.may(access.Inspect, name) != nil })
	return p
}

// stateToProto is the part of poolToProto that changes.
func stateToProto(v *broker.View) *keybrokerv1.Pool {
	p := &keybrokerv1.Pool{Summary: summaryToProto(v)}
	for _, k := range v.Snapshot.Keys {
		p.Keys = append(p.Keys, keyToProto(v, &k))
	}
	for _, q := range v.Snapshot.Quotas {
		p.Quotas = append(p.Quotas, quotaToProto(v, &q))
	}
	for _, q := range v.Snapshot.Queues {
		p.Queues = append(p.Queues, &keybrokerv1.Queue{
			ModelClass: q.Class, Waiters: int32(q.Waiters), Holders: int32(q.Holders),
			LongestWait: durationpb.New(time.Since(v.Wall(q.OldestSince))),
		})
	}
	for _, w := range v.Snapshot.Warnings {
		p.Warnings = append(p.Warnings, &keybrokerv1.Warning{
			Kind: warningToProto[w.Kind], Message: w.Text, Group: w.Group, ModelClass: w.Class,
			FirstTime: timestamppb.New(v.Wall(w.First)), LastTime: timestamppb.New(v.Wall(w.Last)), Count: w.Count,
		})
	}
	return p
}

var warningToProto = map[pool.EventKind]keybrokerv1.WarningKind{
	pool.SharedOrganization: keybrokerv1.WarningKind_WARNING_KIND_SHARED_ORGANIZATION,
	pool.SplitOrganization:  keybrokerv1.WarningKind_WARNING_KIND_SPLIT_ORGANIZATION,
	pool.AllRateLimited:     keybrokerv1.WarningKind_WARNING_KIND_ALL_RATE_LIMITED,
}

var healthToProto = map[pool.Health]keybrokerv1.Health{
	pool.Healthy:     keybrokerv1.Health_HEALTH_HEALTHY,
	pool.Suspect:     keybrokerv1.Health_HEALTH_SUSPECT,
	pool.Quarantined: keybrokerv1.Health_HEALTH_QUARANTINED,
}

func keyToProto(v *broker.View, k *pool.KeyMetadata) *keybrokerv1.Key {
	out := &keybrokerv1.Key{
		Id: k.ID, Group: k.Group, Priority: int32(k.Priority), Weight: int32(k.Weight),
		Health: healthToProto[k.Health], LastError: k.LastError, CooldownUntil: future(v, k.CooldownUntil),
		Available: k.IsAvailable(), CapacityScore: k.GetCapacityScore(), OpenLeases: int64(k.Open),
		Organization: k.Organization, ForbiddenClasses: k.Forbidden,
	}
	if k.LastError != "" {
		out.LastErrorTime = timestamppb.New(v.Wall(k.LastErrorAt))
	}
	return out
}

func quotaToProto(v *broker.View, q *pool.QuotaState) *keybrokerv1.Quota {
	out := &keybrokerv1.Quota{
		Group: q.Group, ModelClass: q.Class, KeyId: q.Key, CooldownUntil: future(v, q.CooldownUntil),
		CooldownReason: q.Reason, OpenLeases: int64(q.Open), InFlightWindow: int64(q.Window),
	}
	for _, l := range q.Limits {
		out.Limits = append(out.Limits, limitToProto(v, &l))
	}
	return out
}

var dimensionToProto = [provider.NumDimensions]keybrokerv1.Dimension{
	provider.Requests:     keybrokerv1.Dimension_DIMENSION_REQUESTS,
	provider.InputTokens:  keybrokerv1.Dimension_DIMENSION_INPUT_TOKENS,
	provider.OutputTokens: keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS,
	provider.Tokens:       keybrokerv1.Dimension_DIMENSION_TOKENS,
	provider.Concurrency:  keybrokerv1.Dimension_DIMENSION_CONCURRENCY,
}

var kindToProto = map[provider.Kind]keybrokerv1.WindowKind{
	provider.Refilling: keybrokerv1.WindowKind_WINDOW_KIND_REFILLING,
	provider.Sliding:   keybrokerv1.WindowKind_WINDOW_KIND_SLIDING,
	provider.Fixed:     keybrokerv1.WindowKind_WINDOW_KIND_FIXED,
}

func limitToProto(v *broker.View, l *pool.LimitState) *keybrokerv1.Limit {
	out := &keybrokerv1.Limit{
		Dimension: dimensionToProto[l.Dimension], Kind: kindToProto[l.Kind],
		Limit: l.Limit, Configured: l.Configured, Used: l.Used, Held: l.Held, Remaining: l.Remaining,
		Name: l.Name, Headroom: l.Headroom, Drift: l.Drift, ForeignUse: l.Foreign,
	}
	if l.ReadAt > 0 {
		out.HeaderTime = timestamppb.New(v.Wall(l.ReadAt))
	}
	if l.Window == 0 {
		out.Kind = keybrokerv1.WindowKind_WINDOW_KIND_CONCURRENT
	} else {
		out.Window = durationpb.New(l.Window)
		out.ResetTime = timestamppb.New(v.Wall(l.ResetAt))
	}
	return out
}

func leaseToProto(v *broker.View, l *pool.LeaseState) *keybrokerv1.Lease {
	return &keybrokerv1.Lease{
		Number: uint64(l.ID), Holder: l.Holder, KeyId: l.Key, Group: l.Group, ModelClass: l.Class,
		GrantedTime: timestamppb.New(v.Wall(l.Granted)), ExpireTime: timestamppb.New(v.Wall(l.Expires)),
		Reserved: amountsToProto(l.Reserved), Used: amountsToProto(l.Used),
	}
}

func amountsToProto(a provider.Amounts) *keybrokerv1.Amounts {
	return &keybrokerv1.Amounts{
		Requests: a[provider.Requests], InputTokens: a[provider.InputTokens],
		OutputTokens: a[provider.OutputTokens], Tokens: a[provider.Tokens],
	}
}

// future is a time that matters only while it is to come.
func future(v *broker.View, t pool.Time) *timestamppb.Timestamp {
	if at := v.Future(t); !at.IsZero() {
		return timestamppb.New(at)
	}
	return nil
}

package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"google.golang.org/grpc"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/pool"
)

const (
	watchInterval = time.Second
	minInterval   = 100 * time.Millisecond
)

func (s *adminService) GetPool(ctx context.Context, req *keybrokerv1.GetPoolRequest) (*keybrokerv1.GetPoolResponse, error) {
	if err := s.may(ctx, access.Inspect, req.GetPool()); err != nil {
		return nil, err
	}
	q, err := validQuery(req)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	if q.Size = int(req.GetPageSize()); q.Size < 0 {
		return nil, toStatus(ctx, invalidf("page_size", "is %d, must not be negative", q.Size))
	}
	if q.From, err = cursorOf(req.GetPageToken()); err != nil {
		return nil, toStatus(ctx, err)
	}
	v, err := s.Broker.Inspect(req.GetPool(), q)
	if err != nil {
		return nil, poolStatus(ctx, req.GetPool(), err)
	}
	return &keybrokerv1.GetPoolResponse{Pool: poolToProto(callerOf(ctx), &v), NextPageToken: tokenOf(v.Snapshot.Next)}, nil
}

// filter is a request that selects keys and quotas.
type filter interface {
	*keybrokerv1.GetPoolRequest | *keybrokerv1.WatchPoolRequest
	GetGroup() string
	GetModelClass() string
	GetOnlyLimited() bool
}

func validQuery[F filter](f F) (pool.Query, error) {
	q := pool.Query{Group: f.GetGroup(), Class: f.GetModelClass(), OnlyLimited: f.GetOnlyLimited()}
	if err := validLength("model_class", q.Class, maxName); err != nil {
		return q, err
	}
	return q, validLength("group", q.Group, maxName)
}

// tokenOf makes a page token of a cursor; the empty one of the zero cursor.
func tokenOf(c pool.Cursor) string {
	if c == (pool.Cursor{}) {
		return ""
	}
	text, _ := json.Marshal(c) // it holds nothing that has no JSON
	return base64.RawURLEncoding.EncodeToString(text)
}

func cursorOf(token string) (c pool.Cursor, err error) {
	if token == "" {
		return c, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil || c == (pool.Cursor{}) {
		return c, invalidf("page_token", "was not given by a previous page; leave it out to begin again")
	}
	return c, nil
}

func (s *adminService) WatchPool(req *keybrokerv1.WatchPoolRequest, stream grpc.ServerStreamingServer[keybrokerv1.WatchPoolResponse]) error {
	ctx := stream.Context()
	if err := s.may(ctx, access.Inspect, req.GetPool()); err != nil {
		return err
	}
	interval, err := validDuration("min_interval", req.GetMinInterval())
	if err != nil {
		return toStatus(ctx, err)
	}
	if req.GetMinInterval() == nil {
		interval = watchInterval
	}
	q, err := validQuery(req)
	if err != nil {
		return toStatus(ctx, err)
	}
	var denied error // it may be taken off the list while it watches
	err = s.Broker.Watch(ctx, req.GetPool(), q, max(interval, minInterval), func(c broker.Changes) error {
		if denied = s.caller(ctx).may(access.Inspect, c.Pool.Name); denied != nil {
			return denied
		}
		if stream.Send(changesToProto(callerOf(ctx), &c)) != nil {
			return context.Canceled // the watcher has gone, which is no fault of ours
		}
		return nil
	})
	if denied != nil {
		err = toStatus(ctx, denied)
		s.note(ctx, audit.Denied, methodOf(ctx), err, req.GetPool())
		return err
	}
	return poolStatus(ctx, req.GetPool(), err)
}

func changesToProto(to *caller, c *broker.Changes) *keybrokerv1.WatchPoolResponse {
	m := &keybrokerv1.WatchPoolResponse{
		StartsOver: c.StartsOver, Complete: c.Complete, RemovedKeys: c.GoneKeys, RemovedQueues: c.GoneQueues,
	}
	if c.StartsOver {
		m.Pool = poolToProto(to, &c.View)
	} else {
		m.Pool = stateToProto(&c.View)
	}
	for _, q := range c.GoneQuotas {
		m.RemovedQuotas = append(m.RemovedQuotas, &keybrokerv1.QuotaName{Group: q.Group, ModelClass: q.Class, KeyId: q.Key})
	}
	return m
}

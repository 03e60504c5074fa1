package server

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/secret"
)

// Audit is where it is written down who was given which key.
type Audit struct {
	Log *audit.Log // nil: nowhere
	// FailOpen gives keys out although that cannot be written down.
	FailOpen bool
}

// errAudit is returned while nothing can be written down, so that no key is given.
var errAudit = errors.New("what is given out cannot be written down, so nothing is")

func entry(ctx context.Context, decision audit.Decision, method string) *audit.Entry {
	c := callerOf(ctx)
	return &audit.Entry{Decision: decision, Method: path.Base(method), Holder: c.holder, Peer: c.peer}
}

// granted writes down a lease before its key leaves.
func (o *Options) granted(ctx context.Context, l *broker.Lease) error {
	if o.Audit.Log == nil {
		return nil
	}
	e := entry(ctx, audit.Granted, methodOf(ctx))
	e.Pool, e.Key, e.Lease = l.Pool.Name, l.Key, audit.Fingerprint(l.ID)
	e.Requests, e.Expires = l.Requests, time.Now().Add(l.TTL)
	return o.write(ctx, e)
}

// ended writes down that a lease has ended, by its holder's word.
func (o *Options) ended(ctx context.Context, leaseID string) {
	if o.Audit.Log == nil {
		return
	}
	e := entry(ctx, audit.Ended, methodOf(ctx))
	e.Pool, e.Key = o.Broker.NameOf(e.Holder, leaseID)
	e.Lease = audit.Fingerprint(leaseID)
	_ = o.write(ctx, e) // what matters is that it was given
}

// restored writes down that an operator takes a key back into use, before it is.
func (o *Options) restored(ctx context.Context, pool, key string) error {
	if o.Audit.Log == nil {
		return nil
	}
	e := entry(ctx, audit.Restored, methodOf(ctx))
	e.Pool, e.Key = pool, key
	return o.write(ctx, e)
}

func (o *Options) write(ctx context.Context, e *audit.Entry) error {
	err := o.Audit.Log.Write(e)
	o.auditing(ctx, err)
	if err != nil && !o.Audit.FailOpen {
		return fmt.Errorf("%w: %w", errAudit, err)
	}
	return nil
}

// note writes down that a call got nothing, and why.
func (o *Options) note(ctx context.Context, decision audit.Decision, method string, failed error, pool string) {
	if o.Audit.Log == nil {
		return
	}
	e := entry(ctx, decision, method)
	e.Pool, e.Reason = secret.Name(pool), reasonOf(failed)
	o.auditing(ctx, o.Audit.Log.Note(e))
}

// auditing logs when the audit log begins to fail, and when it is well again.
func (o *Options) auditing(ctx context.Context, err error) {
	switch failing := err != nil; {
	case o.auditFails.Load() == failing || !o.auditFails.CompareAndSwap(!failing, failing):
	case failing && o.Audit.FailOpen:
		o.Logger.ErrorContext(ctx, "the audit log cannot be written; keys are given out without it", "error", err)
	case failing:
		o.Logger.ErrorContext(ctx, "the audit log cannot be written; no key is given out until it can", "error", err)
	default:
		o.Logger.InfoContext(ctx, "the audit log can be written again")
	}
}

func methodOf(ctx context.Context) string {
	method, _ := grpc.Method(ctx)
	return method
}

// decisionOn tells whether a call that failed was not allowed, or only got nothing.
func decisionOn(failed error) audit.Decision {
	switch status.Code(failed) {
	case codes.Unauthenticated, codes.PermissionDenied:
		return audit.Denied
	}
	return audit.Refused
}

// reasonOf finds the reason in a status.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

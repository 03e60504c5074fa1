package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
)

// public is the verb of methods that are for everybody who can connect, anyVerb that
// of methods for everybody who may do anything.
const (
	public  access.Verb = 0
	anyVerb             = access.Acquire | access.Inspect | access.Admin
)

// verbs is what each method takes. A method that is not here is refused.
var verbs = map[string]access.Verb{
	keybrokerv1.KeyBrokerService_AcquireKey_FullMethodName:  access.Acquire,
	keybrokerv1.KeyBrokerService_ReportUsage_FullMethodName: access.Acquire,
	keybrokerv1.KeyBrokerService_ReleaseKey_FullMethodName:  access.Acquire,

	keybrokerv1.AdminService_ListPools_FullMethodName:  access.Inspect,
	keybrokerv1.AdminService_GetPool_FullMethodName:    access.Inspect,
	keybrokerv1.AdminService_ListLeases_FullMethodName: access.Inspect,
	keybrokerv1.AdminService_WatchPool_FullMethodName:  access.Inspect,
	keybrokerv1.AdminService_RestoreKey_FullMethodName: access.Admin,

	// It tells what is in proto/, which is no secret, but not to strangers.
	reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName:    anyVerb,
	reflectionalpha.ServerReflection_ServerReflectionInfo_FullMethodName: anyVerb,

	// Probes have no identity, and learn only whether the broker serves.
	healthpb.Health_Check_FullMethodName: public,
	healthpb.Health_List_FullMethodName:  public,
	healthpb.Health_Watch_FullMethodName: public, // but not for strangers
}

// noWatch is what strangers are told who watch the health: a watch lasts, and would cost
// us more than them. gRPC's clients then go on without, and their calls are told what
// is wrong.
var noWatch = status.Error(codes.Unimplemented, "only those who have proved who they are may watch")

// authorise lets a call pass that some rule allows on some pool; which pools, the
// handlers ask.
func (o *Options) authorise(ctx context.Context) (context.Context, error) {
	method, _ := grpc.Method(ctx)
	err := permit(method, callerOf(ctx))
	if err == nil {
		return ctx, nil
	}
	o.note(ctx, audit.Denied, method, err, "")
	return nil, err
}

func permit(method string, c *caller) error {
	verb, known := verbs[method]
	switch {
	case c.refused != nil && method == healthpb.Health_Watch_FullMethodName:
		return noWatch
	case known && verb == public:
		return nil
	case c.refused != nil:
		return toStatus(context.Background(), &unauthenticated{c.refused})
	case !known || !c.rights.Has(verb):
		return toStatus(context.Background(), &forbidden{c.identity, verb})
	}
	return nil
}

package server_test

// What is served where: services, reflection, and the operators' listener.

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/server"
)

// services asks reflection what there is.
func (c *caller) services() ([]string, error) {
	stream, err := reflectionpb.NewServerReflectionClient(c.conn).ServerReflectionInfo(c.Context())
	require.NoError(c, err)
	// An error in sending comes out of Recv.
	_ = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	r, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range r.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names, stream.CloseSend()
}

func TestReflectionListsTheServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, err := begin(t, onePool("a", key("k", slots(1)))).as("operator").services()
		require.NoError(t, err)
		assert.Subset(t, names, []string{
			"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
			"keybroker.v1.AdminService", "keybroker.v1.KeyBrokerService",
		})
	})
}

func TestSplitAdminKeepsOperatorsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginWith(t, server.Options{SplitAdmin: true}, onePool("a", key("k", slots(1))))
		onMain, onAdmin := w.as("alice"), w.dialTo(w.admin, "operator")
		ask := &keybrokerv1.AcquireKeyRequest{Pool: "a"}
		list := &keybrokerv1.ListPoolsRequest{}
		check := &healthpb.HealthCheckRequest{}

		onMain.lease(ask)
		_, err := onMain.operator.ListPools(t.Context(), list)
		assert.Equal(t, codes.Unimplemented, status.Code(err), "operators' calls on the services' listener")
		_, err = onMain.services()
		assert.Equal(t, codes.Unimplemented, status.Code(err), "reflection on the services' listener")
		_, err = healthpb.NewHealthClient(onMain.conn).Check(t.Context(), check)
		assert.NoError(t, err)

		_, err = onAdmin.AcquireKey(onAdmin.ctx(), ask)
		assert.Equal(t, codes.Unimplemented, status.Code(err), "keys on the operators' listener")
		_, err = onAdmin.ReportUsage(onAdmin.ctx(), &keybrokerv1.ReportUsageRequest{})
		assert.Equal(t, codes.Unimplemented, status.Code(err))
		pools, err := onAdmin.operator.ListPools(t.Context(), list)
		require.NoError(t, err)
		assert.EqualValues(t, 1, pools.GetPools()[0].GetOpenLeases(), "one broker behind both")
		names, err := onAdmin.services()
		require.NoError(t, err)
		assert.Contains(t, names, "keybroker.v1.AdminService")
		assert.NotContains(t, names, "keybroker.v1.KeyBrokerService")
		_, err = healthpb.NewHealthClient(onAdmin.conn).Check(t.Context(), check)
		assert.NoError(t, err)
	})
}

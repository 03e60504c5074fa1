package client_test

import (
	"os"
	"testing"

	"google.golang.org/grpc/grpclog"

	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestMain(m *testing.M) {
	os.Exit(canary.Main(m, func() {
		if !canary.Measuring() {
			w := canary.Writer("gRPC's own log")
			grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(w, w, w, 99))
		}
	}))
}

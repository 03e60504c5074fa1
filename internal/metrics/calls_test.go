package metrics_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/metrics"
)

// Every method that is served has a series of its own.
func TestMethodsAreKnown(t *testing.T) {
	for _, d := range []*grpc.ServiceDesc{
		&keybrokerv1.KeyBrokerService_ServiceDesc, &keybrokerv1.AdminService_ServiceDesc,
		&healthpb.Health_ServiceDesc, &reflectionpb.ServerReflection_ServiceDesc,
	} {
		var names []string
		for _, m := range d.Methods {
			names = append(names, m.MethodName)
		}
		for _, s := range d.Streams {
			names = append(names, s.StreamName)
		}
		for _, name := range names {
			m := metrics.New(metrics.Sources{})
			m.Observe("/"+d.ServiceName+"/"+name, codes.OK, time.Second)
			assert.Contains(t, scrape(t, m, all), `keybroker_grpc_requests_total{code="OK",method="`+name+`"} 1`)
		}
	}
}

func TestNobodyMakesSeries(t *testing.T) {
	m := metrics.New(metrics.Sources{})
	for _, name := range []string{"", "/", "/x/", "acquirekey", "other", "AcquireKey ", "\xff", strings.Repeat("x", 1<<16)} {
		for code := range codes.Code(40) {
			m.Observe(name, code, -time.Second)
		}
	}
	got := scrape(t, m, all)
	assert.Equal(t, 17, strings.Count(got, "keybroker_grpc_requests_total{"))
	assert.Equal(t, 17, strings.Count(got, `method="other"} `)-2, "beside the histogram's sum and count")
}

func TestObserveDoesNotAllocate(t *testing.T) {
	m := metrics.New(metrics.Sources{})
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		m.Observe("/keybroker.v1.KeyBrokerService/AcquireKey", codes.OK, time.Millisecond)
	}))
}

func BenchmarkObserve(b *testing.B) {
	for _, c := range []struct{ name, method string }{
		{"known", "/keybroker.v1.KeyBrokerService/AcquireKey"}, {"unknown", "/x.Y/Z"},
	} {
		m := metrics.New(metrics.Sources{})
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Observe(c.method, codes.OK, 300*time.Microsecond)
			}
		})
		b.Run(c.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					m.Observe(c.method, codes.OK, 300*time.Microsecond)
				}
			})
		})
	}
}

// Package wiretap has the canary hear what a gRPC client is told: answers, errors with
// their details, headers and trailers. It is for tests.
package wiretap

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// Options are those of a connection that is overheard. The one thing that is left out is
// the key in an answer of AcquireKey.
func Options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

func unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header, trailer metadata.MD
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header), grpc.Trailer(&trailer))...)
	canary.Text("the answer of "+method, text(reply, err)+plain(header)+plain(trailer))
	return err
}

func stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		canary.Text("the answer of "+method, text(nil, err))
		return nil, err
	}
	return &tapped{s, method}, nil
}

type tapped struct {
	grpc.ClientStream
	method string
}

func (s *tapped) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	told := text(m, err)
	if err != nil { // before, there is no trailer
		header, _ := s.Header()
		told += plain(header) + plain(s.Trailer())
	}
	canary.Text("the answer of "+s.method, told)
	return err
}

// plain shows metadata, which prints itself without its values.
func plain(md metadata.MD) string { return fmt.Sprint(map[string][]string(md)) }

// text has every string of an answer or an error as it is, as the wire has.
func text(reply any, err error) string {
	if err != nil {
		details, _ := proto.Marshal(status.Convert(err).Proto())
		return fmt.Sprintf("%v %+v %s", err, err, details)
	}
	if m, ok := reply.(*keybrokerv1.AcquireKeyResponse); ok { // the one place; nobody else has the answer yet
		defer func(key string) { m.ApiKey = key }(m.GetApiKey())
		m.ApiKey = ""
	}
	m, _ := reply.(proto.Message)
	b, _ := proto.Marshal(m)
	return string(b)
}

package server

import (
	"context"
	"net"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// HolderHeader is the request metadata by which a client names itself. Plaintext
// on loopback proves nothing, so the name is taken as it is; it keeps holders
// apart, not out.
const HolderHeader = "keybroker-holder"

// holder tells who calls: the name it gives, or else the host it calls from.
func holder(ctx context.Context) string {
	if names := metadata.ValueFromIncomingContext(ctx, HolderHeader); len(names) > 0 && printable(names[0]) {
		return names[0]
	}
	if p, ok := peer.FromContext(ctx); ok {
		if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
			return host
		}
		return p.Addr.String()
	}
	return "unknown"
}

func printable(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

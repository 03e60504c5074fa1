package client

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/keybroker/keybroker/internal/certs"
)

// fileWire is TLS whose files are read again for each connection. The broker ends
// connections after a while, so that new files are in use soon.
type fileWire struct {
	credentials.TransportCredentials // of the files as they were at first
	source                           *certs.Source
	logger                           *slog.Logger
}

func newFileWire(files certs.Files, logger *slog.Logger) (*fileWire, error) {
	source, err := certs.Open(files)
	if err != nil {
		return nil, err
	}
	return &fileWire{credentials.NewTLS(source.ClientConfig()), source, logger}, nil
}

// ClientHandshake is that of TLS. Files that are broken now do not keep it from using
// those of before.
func (w *fileWire) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, err := w.source.Reload(); err != nil {
		w.logger.WarnContext(ctx, "keybroker: TLS files cannot be read again; those of before stay in use", "error", err)
	}
	return credentials.NewTLS(w.source.ClientConfig()).ClientHandshake(ctx, authority, conn)
}

// Clone is required of credentials.
func (w *fileWire) Clone() credentials.TransportCredentials {
	return &fileWire{w.TransportCredentials.Clone(), w.source, w.logger}
}

// bearerFile is a token in a file as gRPC's credentials.
type bearerFile struct {
	path   string
	secure bool
	logger *slog.Logger

	mu    sync.Mutex
	token string
	read  time.Time
}

// GetRequestMetadata gives no error: gRPC would take one for a broker that is not well.
// Without a token, the broker says what is wrong.
func (b *bearerFile) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.read) >= time.Second {
		b.read = time.Now()
		if text, err := os.ReadFile(b.path); err == nil {
			b.token = strings.TrimSpace(string(text))
		} else {
			b.logger.WarnContext(ctx, "keybroker: the token cannot be read; that of before stays in use", "error", err)
		}
	}
	if b.token == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b *bearerFile) RequireTransportSecurity() bool { return b.secure }

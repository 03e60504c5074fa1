package client

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// errorPart is how much of an error's body is read before it is passed on, and
	// errorTime how long that may take.
	errorPart = 64 << 10
	errorTime = time.Second
)

// errorBody is the body of an error. Its beginning is read ahead, by a goroutine
// that ends when the body does, or is closed.
type errorBody struct {
	body   io.ReadCloser
	closed func()
	begun  chan struct{} // closed when the beginning has been read

	mu   sync.Mutex
	part []byte
	err  error // of reading it
	at   int   // read by the caller
}

func newErrorBody(body io.ReadCloser, closed func()) *errorBody {
	if body == nil {
		body = http.NoBody
	}
	b := &errorBody{body: body, closed: closed, begun: make(chan struct{})}
	go b.begin()
	return b
}

func (b *errorBody) begin() {
	defer close(b.begun)
	p := make([]byte, 4<<10)
	for {
		n, err := b.body.Read(p)
		b.mu.Lock()
		b.part, b.err = append(b.part, p[:n]...), err
		enough := err != nil || len(b.part) >= errorPart
		b.mu.Unlock()
		if enough {
			return
		}
	}
}

// beginning waits for it, but not for long, and gives what there is.
func (b *errorBody) beginning() []byte {
	late := time.NewTimer(errorTime)
	defer late.Stop()
	select {
	case <-b.begun:
	case <-late.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.part
}

// Read reads the beginning, and then the rest.
func (b *errorBody) Read(p []byte) (int, error) {
	<-b.begun
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.at < len(b.part):
		n := copy(p, b.part[b.at:])
		b.at += n
		return n, nil
	case b.err != nil:
		return 0, b.err
	}
	return b.body.Read(p)
}

// Close closes the body.
func (b *errorBody) Close() error {
	err := b.body.Close()
	b.closed()
	return err
}

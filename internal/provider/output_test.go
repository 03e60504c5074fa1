package provider

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNoOutput(t *testing.T) {
	for status, want := range map[int]bool{0: false, 200: false, 206: false, 307: true, 400: true, 429: true, 500: true, 502: false, 503: true, 504: false, 529: true} {
		assert.Equal(t, want, NoOutput(status), status)
	}
}

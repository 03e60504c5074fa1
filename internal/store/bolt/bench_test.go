package bolt

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/testing/storetest"
)

func BenchmarkSave(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := start(b, file(b))
			epoch, record := claim(b, s, "name"), make([]byte, size)
			for i := range b.N {
				record[0] = byte(i)
				require.NoError(b, storetest.Put(context.Background(), s, "name", epoch, record))
			}
		})
	}
}

// BenchmarkSaveAtOnce measures 100 names that save at the same time.
func BenchmarkSaveAtOnce(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10} {
		b.Run(fmt.Sprintf("100x%dKiB", size>>10), func(b *testing.B) {
			s := start(b, file(b))
			for i := range 100 {
				claim(b, s, fmt.Sprint(i))
			}
			b.ResetTimer()
			for n := range b.N {
				var all sync.WaitGroup
				for i := range 100 {
					all.Go(func() {
						record := make([]byte, size)
						record[0] = byte(n)
						assert.NoError(b, storetest.Put(context.Background(), s, fmt.Sprint(i), 1, record))
					})
				}
				all.Wait()
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	s := start(b, file(b))
	require.NoError(b, storetest.Put(context.Background(), s, "name", claim(b, s, "name"), make([]byte, 100<<10)))
	for b.Loop() {
		_, _ = s.Load(context.Background(), "name")
	}
}

// BenchmarkOpen measures Open and Close.
func BenchmarkOpen(b *testing.B) {
	path := file(b)
	s := start(b, path)
	require.NoError(b, storetest.Put(context.Background(), s, "name", claim(b, s, "name"), make([]byte, 2<<20)))
	require.NoError(b, s.Close())
	for b.Loop() {
		s, err := Open(path)
		require.NoError(b, err)
		require.NoError(b, s.Close())
	}
}

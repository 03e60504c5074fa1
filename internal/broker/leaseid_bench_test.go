package broker

import "testing"

const someHolder = "spiffe://corp.example/ns/search/sa/indexer"

func BenchmarkLeaseID(b *testing.B) {
	s := newSigner(keysFrom(1, 2))
	b.ReportAllocs()
	for b.Loop() {
		_ = s.id(typical, someHolder)
	}
}

func BenchmarkParseLeaseID(b *testing.B) {
	s := newSigner(keysFrom(1, 2))
	id := s.id(typical, someHolder)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.parse(id, someHolder); !ok {
			b.Fatal("unknown")
		}
	}
}

package broker

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// record is what the store keeps of a pool. It holds neither keys nor leases.
type record struct {
	Version int           `json:"version"`
	MaxTTL  time.Duration `json:"max_ttl"` // no lease lives longer without a report
	State   *pool.State   `json:"state"`
}

// recordVersion is the version of the records that this program writes. It refuses later
// ones, because it would lose what it does not understand of them.
const recordVersion = 1

func (r *record) encode() Change {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err != nil { // numbers and names can always be encoded
		panic(err)
	}
	c := Change{Put: map[string][]byte{SoleChunk: nil}}
	for i := 0; len(b) > 0; i++ {
		n := min(len(b), MaxChunk)
		if i == 0 {
			c.Put[SoleChunk], b = b[:n], b[n:]
			continue
		}
		c.Put[fmt.Sprint(i)], b = b[:n], b[n:]
	}
	for i := len(c.Put); i < 1000; i++ {
		c.Drop = append(c.Drop, fmt.Sprint(i))
	}
	return c
}

// decodeRecord reads a record. It returns nil if the store has none.
func decodeRecord(chunks map[string][]byte) (*record, error) {
	if len(chunks) == 0 {
		return nil, nil
	}
	b := chunks[SoleChunk]
	for i := 1; chunks[fmt.Sprint(i)] != nil; i++ {
		b = append(b, chunks[fmt.Sprint(i)]...)
	}
	var r record
	switch err := json.Unmarshal(b, &r); {
	case err == nil && r.Version > recordVersion:
		return nil, fmt.Errorf("its record has version %d, and this program knows %d: use the one that wrote it, or a later one", r.Version, recordVersion)
	case err != nil || r.Version < 1 || r.State == nil:
		return nil, fmt.Errorf("its record is damaged (%v); start once with --state-lost, which takes all limits for used", err)
	}
	return &r, nil
}

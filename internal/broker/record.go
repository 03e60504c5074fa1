package broker

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// record is what a store keeps of a pool: never a key, nor anything of a lease.
type record struct {
	Version int           `json:"version"`
	MaxTTL  time.Duration `json:"max_ttl"` // that any lease may live without a report
	State   *pool.State   `json:"state"`
}

// recordVersion is that of the records written here. A later one may say what this
// program does not understand, and so must not forget.
const recordVersion = 1

func (r *record) encode() []byte {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err != nil { // plain numbers and names
		panic(err)
	}
	return b
}

// decodeRecord reads a record; nil if there is none.
func decodeRecord(b []byte) (*record, error) {
	if b == nil {
		return nil, nil
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

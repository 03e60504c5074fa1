package broker

import (
	"context"
	"fmt"
	"time"
)

// keepSigningKey is how long a key signs: longer than any lease may live.
const keepSigningKey = 7 * 24 * time.Hour

// startSigner begins with the keys on record, or the first, and goes on to rotate
// them until the context ends. With lost, all ids of before are void.
func startSigner(ctx context.Context, store Store, lost bool) (*signer, error) {
	epoch, err := store.Claim(ctx, signingKeysName)
	if err != nil {
		return nil, fmt.Errorf("claim the signing keys: %w", err)
	}
	record, err := store.Load(ctx, signingKeysName)
	if err != nil {
		return nil, fmt.Errorf("load the signing keys: %w", err)
	}
	keys, changed := newSigningKeys(time.Now()), true
	if record != nil && !lost {
		if keys, err = parseSigningKeys(record); err != nil {
			return nil, fmt.Errorf("%w; start once with --state-lost, which makes new ones", err)
		}
		keys, changed = keys.rotate(time.Now(), keepSigningKey)
	}
	if changed {
		if err := store.Save(ctx, signingKeysName, epoch, keys.record()); err != nil {
			return nil, fmt.Errorf("save the signing keys: %w", err)
		}
	}
	s := newSigner(keys)
	go s.rotate(ctx, store, epoch, keys)
	return s, nil
}

// rotate takes new keys when the newest is old, and saves them before they sign. If
// they cannot be saved, the present ones go on: somebody else has new ones, or they
// come another day.
func (s *signer) rotate(ctx context.Context, store Store, epoch uint64, keys signingKeys) {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-day.C:
		}
		next, changed := keys.rotate(time.Now(), keepSigningKey)
		if changed && store.Save(ctx, signingKeysName, epoch, next.record()) == nil {
			keys = next
			s.use(keys)
		}
	}
}

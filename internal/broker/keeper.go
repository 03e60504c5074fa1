package broker

import (
	"context"
	"errors"
)

// keeper saves the record of one name for its owner. One goroutine at a time uses it.
type keeper struct {
	store   Store
	name    string
	epoch   uint64 // of the owner's claim
	version uint64 // of the record in the store
	known   bool   // version is known: there was a load, and no save since whose outcome is open
}

// load loads the record.
func (k *keeper) load(ctx context.Context) (Record, error) {
	r, err := k.store.Load(ctx, k.name)
	if err == nil {
		k.version, k.known = r.Version, true
	}
	return r, err
}

// save changes the record in the store. If it is not known which version is stored, since the
// outcome of a save before was unknown, it finds out first. That save may still have its effect
// in between; then the store refuses this one as stale, and it is made once more.
func (k *keeper) save(ctx context.Context, change Change) (err error) {
	for range 2 {
		if !k.known {
			if _, err = k.load(ctx); err != nil {
				return err
			}
		}
		next, err := k.store.Save(ctx, k.name, k.epoch, k.version, change)
		if err == nil {
			k.version = next
			return nil
		}
		k.known = false
		if !errors.Is(err, ErrStale) {
			return err
		}
	}
	return ErrStale
}

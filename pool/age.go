package pool

import "time"

// Parts of a state that were recorded at different times are made to tell of one: the time in
// between has passed for them, on the owner's own clock. Nothing was charged in between beyond
// what each bucket's state allows for in advance.

// Age makes the state of a class one of a later moment.
func (s *ClassState) Age(from, to Time) { s.Rest = s.Rest.age(to.Sub(from)) }

// Age makes the state of a group one of a later moment.
func (s *GroupState) Age(from, to Time) {
	s.Rest = s.Rest.age(to.Sub(from))
	ageAll(s.Shared, from, to)
}

// Age makes the state of a key one of a later moment.
func (s *KeyState) Age(from, to Time) {
	s.Rest = max(0, s.Rest-to.Sub(from))
	for class, r := range s.Barred {
		if left := r.age(to.Sub(from)); left != nil {
			s.Barred[class] = *left
		} else {
			delete(s.Barred, class)
		}
	}
	ageAll(s.Shared, from, to)
}

// Age makes the state of an account one of a later moment.
func (s *AccountState) Age(from, to Time) {
	s.Rest = s.Rest.age(to.Sub(from))
	ageAll(s.Buckets, from, to)
}

// Age makes the state of a key's limits one of a later moment.
func (s *OwnState) Age(from, to Time) { ageAll(s.Buckets, from, to) }

// age returns what is left after some time, nil if nothing is.
func (s *RestState) age(d time.Duration) *RestState {
	if s == nil || s.Left <= d {
		return nil
	}
	s.Left -= d
	return s
}

func ageAll(buckets []BucketState, from, to Time) {
	for i := range buckets {
		buckets[i].Age(from, to)
	}
}

package record

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/pool/limit"
)

// drawer draws parts of states.
type drawer struct{ *rapid.T }

func (d drawer) int(name string) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(0, most)).Draw(d.T, name)
}

func (d drawer) time(name string) time.Duration {
	return rapid.OneOf(
		rapid.Map(rapid.Int64Range(0, 1<<31), func(n int64) time.Duration { return time.Duration(n) * time.Second }),
		rapid.Map(rapid.Int64Range(0, most), func(n int64) time.Duration { return time.Duration(n) }),
	).Draw(d.T, name)
}

func (d drawer) text(name string) string {
	return rapid.SampledFrom([]string{"", "a", "b", "ü", "\x00", "m1\n", "a longer name of something"}).Draw(d.T, name)
}

func (d drawer) bool(name string) bool { return rapid.Bool().Draw(d.T, name) }

func (d drawer) rest() *pool.RestState {
	if d.bool("no rest") {
		return nil
	}
	return &pool.RestState{
		Left: d.time("left"), By: d.text("by"), Only: provider.Dimension(rapid.IntRange(0, int(provider.NumDimensions)).Draw(d.T, "only")),
		Class: provider.Class(rapid.IntRange(0, int(provider.NoAnswer)).Draw(d.T, "class")), Operator: d.bool("operator"), Backoff: d.time("backoff"),
	}
}

func (d drawer) buckets() (bs []pool.BucketState) {
	for range rapid.IntRange(0, 3).Draw(d.T, "buckets") {
		b := pool.BucketState{
			Dimension: provider.Dimension(rapid.IntRange(0, int(provider.NumDimensions)-1).Draw(d.T, "dimension")), Name: d.text("name"),
			Window: min(d.time("window"), longestWindow), Kind: rapid.SampledFrom([]provider.Kind{provider.Sliding, provider.Refilling, provider.Fixed}).Draw(d.T, "kind"),
			Limit: d.int("limit"), Learned: d.bool("learned"), Lowered: d.bool("lowered"),
		}
		if d.bool("used") {
			b.Used, b.Backlog, b.Held = d.int("n"), d.time("backlog"), d.int("held")
			b.Past, b.Reset, b.Slice = d.int("past"), d.time("reset"), d.time("slice")
			b.Stated = limit.Stated{Ahead: d.int("ahead"), Peak: d.int("peak")}
			for range rapid.IntRange(0, 40).Draw(d.T, "slices") {
				b.Slices = append(b.Slices, d.int("in slice"))
			}
			if d.bool("ends") {
				b.Ends = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(d.T, "second"), rapid.Int64Range(0, 1e9-1).Draw(d.T, "ns")).UTC()
			}
		}
		bs = append(bs, b)
	}
	return bs
}

// state draws a whole state in which no two parts have the same name.
func (d drawer) state() *pool.State {
	s := &pool.State{Whole: true, Stopped: d.bool("stopped"), At: pool.Time(d.int("at"))}
	some := func() []int { return make([]int, rapid.IntRange(0, 3).Draw(d.T, "some")) }
	for i := range some() {
		c := pool.ClassState{Name: fmt.Sprint("class ", i), Rest: d.rest()}
		for range some() {
			c.Models = append(c.Models, d.text("model"))
		}
		s.Classes = append(s.Classes, c)
	}
	for i := range some() {
		s.Groups = append(s.Groups, pool.GroupState{Name: fmt.Sprint("group ", i), Rest: d.rest(), Shared: d.buckets()})
	}
	for i := range some() {
		k := pool.KeyState{
			ID: fmt.Sprint("key ", i), Group: d.text("group"), Health: pool.Health(rapid.IntRange(0, 2).Draw(d.T, "health")),
			Rest: d.time("rest"), By: d.text("by"), Backoff: d.time("backoff"), Organization: d.text("organization"), Shared: d.buckets(),
		}
		for range some() {
			if r := d.rest(); r != nil {
				if k.Barred == nil {
					k.Barred = map[string]pool.RestState{}
				}
				k.Barred[d.text("class")] = *r
			}
		}
		s.Keys = append(s.Keys, k)
	}
	for i, c := range s.Classes {
		for j := range some() {
			s.Accounts = append(s.Accounts, pool.AccountState{
				Group: fmt.Sprint("group ", j), Class: c.Name, Rest: d.rest(), Window: rapid.IntRange(0, 1<<20).Draw(d.T, "window"),
				Capped: d.bool("capped"), Steady: d.bool("steady"), Buckets: d.buckets(),
			})
		}
		if i == 0 {
			s.Own = append(s.Own, pool.OwnState{Key: "key", Class: c.Name, Buckets: d.buckets()})
		}
	}
	return s
}

// aged is a state as one that is read at the moment at which it was taken.
func aged(s *pool.State) *pool.State {
	for i := range s.Classes {
		s.Classes[i].Age(s.At, s.At)
	}
	for i := range s.Groups {
		s.Groups[i].Age(s.At, s.At)
	}
	for i := range s.Keys {
		if s.Keys[i].Age(s.At, s.At); len(s.Keys[i].Barred) == 0 {
			s.Keys[i].Barred = nil
		}
	}
	for i := range s.Accounts {
		s.Accounts[i].Age(s.At, s.At)
	}
	return s
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawer{t}.state()
		ttl := drawer{t}.time("ttl")
		put, drop := NewLog(7, nil).Change(s, ttl)
		require.Empty(t, drop)
		r, err := Decode(put)
		require.NoError(t, err)
		require.Equal(t, &Record{ttl, aged(s)}, r)
	})
}

// The file of the sample was written by the last program of version 1.
func TestVersion1IsRead(t *testing.T) {
	text, err := os.ReadFile("testdata/version1.json")
	require.NoError(t, err)
	r, err := Decode(map[string][]byte{"record": text})
	require.NoError(t, err)

	rest := func() *pool.RestState {
		return &pool.RestState{Left: 5 * time.Second, By: "h", Only: provider.InputTokens, Class: provider.RateLimited, Operator: true, Backoff: 2 * time.Second}
	}
	full := pool.BucketState{
		Dimension: provider.OutputTokens, Name: "n", Window: time.Hour, Kind: provider.Fixed, Limit: 7, Learned: true, Lowered: true,
		Snapshot: limit.Snapshot{
			Used: 6, Backlog: 3 * time.Second, Slices: []int64{1, 0, 5}, Slice: time.Minute, Past: 4, Reset: time.Second,
			Ends: time.Date(2026, 1, 15, 13, 0, 0, 0, time.UTC),
		},
		Stated: limit.Stated{Ahead: 2}, Held: 3,
	}
	small := pool.BucketState{Dimension: provider.Requests, Window: 24 * time.Hour, Kind: provider.Sliding, Limit: 100, Stated: limit.Stated{Ahead: 1}}
	assert.Equal(t, &Record{10 * time.Minute, &pool.State{
		Whole: true, Stopped: true,
		Classes: []pool.ClassState{{Name: "m1", Models: []string{"m1", "m1-latest"}, Rest: rest()}, {Name: "m2"}},
		Groups:  []pool.GroupState{{Name: "g", Rest: rest(), Shared: []pool.BucketState{full}}, {Name: "b"}},
		Keys: []pool.KeyState{
			{ID: "a", Group: "g", Health: pool.Quarantined, Rest: time.Minute, By: "h", Backoff: 10 * time.Minute, Organization: "org",
				Barred: map[string]pool.RestState{"m1": *rest()}, Shared: []pool.BucketState{small}},
			{ID: "b"},
		},
		Accounts: []pool.AccountState{
			{Group: "g", Class: "m1", Rest: rest(), Window: 4, Capped: true, Steady: true, Buckets: []pool.BucketState{small, full}},
			{Group: "g", Class: "m2"},
			{Group: "b", Class: "m1", Buckets: []pool.BucketState{small}},
		},
		Own: []pool.OwnState{{Key: "a", Class: "m1", Buckets: []pool.BucketState{full}}, {Key: "a", Class: "m2", Buckets: []pool.BucketState{small, full}}},
	}}, r)

	put, drop := NewLog(2, map[string][]byte{"record": text}).Change(r.State, r.MaxTTL)
	assert.Equal(t, []string{"record"}, drop)
	again, err := Decode(put)
	require.NoError(t, err)
	assert.Equal(t, r, again, "and written anew")
}

func TestLaterVersionsAreRefused(t *testing.T) {
	for _, b := range [][]byte{[]byte(`{"version": 9}`), binary.AppendUvarint(nil, 9)} {
		_, err := Decode(map[string][]byte{"record": b})
		require.EqualError(t, err, "its record has version 9, and this program knows 2: use the one that wrote it, or a later one")
	}
}

func TestDamageSaysWhatToDo(t *testing.T) {
	good, _ := NewLog(1, nil).Change(&pool.State{Whole: true, At: 5, Classes: []pool.ClassState{{Name: "c"}}}, time.Minute)
	var b []byte
	for _, b = range good {
	}
	for name, chunks := range map[string]map[string][]byte{
		"empty":             {"a": {}},
		"an old version":    {"a": binary.AppendUvarint(nil, 1)},
		"JSON":              {"a": []byte(`{"version"`)},
		"JSON of nothing":   {"a": []byte(`{}`)},
		"two of JSON":       {"a": []byte(`{"version": 1}`), "b": []byte(`{"version": 1}`)},
		"JSON and a chunk":  {"a": []byte(`{"version": 1}`), "b": b},
		"cut":               {"a": b[:len(b)-1]},
		"longer":            {"a": append(slices.Clone(b), 0)},
		"the same twice":    {"a": b, "b": b},
		"no head":           {"a": {version, 1}},
		"an unknown part":   {"a": {version, 1, 1, byte(kinds)}},
		"a huge part":       {"a": append([]byte{version, 1}, binary.AppendUvarint(nil, 1<<63)...)},
		"the future":        {"a": {version, 1, 4, byte(head), 5, 0, 0, 6, byte(class), 1, 'c', 6, 0, 0}},
		"a number too long": {"a": {version, 0x81, 0x00}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(chunks)
			require.ErrorContains(t, err, "its record is damaged (")
			require.ErrorContains(t, err, "); start once with --state-lost, which takes all limits for used")
		})
	}
}

// Numbers that the engine could not add up, or that stand for nothing, are damage in both
// versions.
func TestNumbersOutOfTheirBounds(t *testing.T) {
	one := func(f func(w *writer)) map[string][]byte {
		w := &writer{[]byte{version, 1}}
		w.text(string([]byte{byte(head), 0, 0, 0}))
		w.text(string([]byte{byte(class), 1, 'c', 0, 0, 0}))
		part := &writer{[]byte{byte(account), 1, 'g', 1, 'c', 0}} // as of 0
		f(part)
		w.text(string(part.b))
		return map[string][]byte{"a": w.b}
	}
	bucket := func(window, limit, used, held uint64) map[string][]byte {
		return one(func(w *writer) {
			w.b = append(w.b, 0, 0, 0, 1, hasUse|hasHeld, 0, 0) // flags, window, cooldown; one bucket: what it has, what it is, flags
			for _, n := range []uint64{window, limit, used, held} {
				w.uint(n)
			}
		})
	}
	seconds := func(d time.Duration) uint64 { return uint64(d/time.Second) << 1 }
	text, err := os.ReadFile("testdata/version1.json")
	require.NoError(t, err)
	edited := func(from, to string) map[string][]byte {
		require.Contains(t, string(text), from)
		return map[string][]byte{"record": bytes.Replace(text, []byte(from), []byte(to), 1)}
	}
	const outOfRange = "a number is out of its range"
	for name, c := range map[string]struct {
		chunks map[string][]byte
		want   string // what the damage is, if there is any
	}{
		"the bounds":        {bucket(seconds(longestWindow), most, most, most), ""},
		"a long window":     {bucket(seconds(longestWindow)+2, 5, 5, 5), outOfRange},
		"a large limit":     {bucket(2, most+1, 5, 5), outOfRange},
		"much used":         {bucket(2, 5, 1<<63-1, 5), outOfRange},
		"much held":         {bucket(2, 5, 5, 1<<63-1), outOfRange},
		"a long time":       {map[string][]byte{"a": append(binary.AppendUvarint([]byte{version, 1, 13, byte(head), 0}, math.MaxUint64), 0)}, outOfRange},
		"JSON as it is":     {edited("m1-latest", "m1-newest"), ""},
		"JSON, dimension":   {edited(`"dimension":2`, `"dimension":99`), outOfRange},
		"JSON, only":        {edited(`"only":1`, `"only":99`), outOfRange},
		"JSON, class":       {edited(`"class":1,`, `"class":99,`), outOfRange},
		"JSON, kind":        {edited(`"kind":2`, `"kind":3`), outOfRange},
		"JSON, health":      {edited(`"health":2`, `"health":3`), outOfRange},
		"JSON, window":      {edited(`"window":3600000000000`, `"window":9000000000000000000`), outOfRange},
		"JSON, few leases":  {edited(`"window":4`, `"window":-4`), outOfRange},
		"JSON, limit":       {edited(`"limit":7`, `"limit":-7`), outOfRange},
		"JSON, held":        {edited(`"held":3`, `"held":9000000000000000000`), outOfRange},
		"JSON, ahead":       {edited(`"ahead":2`, `"ahead":9000000000000000000`), outOfRange},
		"JSON, slices":      {edited(`"slices":[1,`, `"slices":[-1,`), outOfRange},
		"JSON, left":        {edited(`"left":5000000000`, `"left":-5`), outOfRange},
		"JSON, max_ttl":     {edited(`"max_ttl":600000000000`, `"max_ttl":9000000000000000000`), outOfRange},
		"JSON, a key twice": {edited(`{"id":"b"}`, `{"id":"a"}`), "a part is there twice"},
		"JSON, no class":    {edited(`"own":{"m1":`, `"own":{"m0":`), "a part is of an unknown class"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(c.chunks)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "its record is damaged ("+c.want+")")
			}
		})
	}
}

// What a writer is given beyond the bounds is read again, as the bound.
func TestNothingIsWrittenThatIsNotRead(t *testing.T) {
	put, _ := NewLog(1, nil).Change(&pool.State{Whole: true, Classes: []pool.ClassState{{Name: "c"}}, Accounts: []pool.AccountState{{
		Group: "g", Class: "c", Window: math.MaxInt, Buckets: []pool.BucketState{{Window: math.MaxInt64, Limit: math.MaxInt64, Held: math.MaxInt64}},
	}}}, math.MaxInt64)
	r, err := Decode(put)
	require.NoError(t, err)
	assert.EqualValues(t, most/time.Second*time.Second, r.MaxTTL.Truncate(time.Second))
	b := r.State.Accounts[0].Buckets[0]
	assert.Equal(t, []int64{int64(longestWindow), most, most}, []int64{int64(b.Window), b.Limit, b.Held})
	assert.Equal(t, mostWindow, r.State.Accounts[0].Window)
}

// No part is too large for a chunk, with the longest names, as many limits as there may be, and
// a key that is barred from every class. The classes that stay barred for longest are kept.
func TestTheLargestParts(t *testing.T) {
	name := func(i, size int) string { return fmt.Sprintf("%0*d", size, i) }
	cooldown := func(i int) *pool.RestState {
		return &pool.RestState{Left: time.Duration(i)*time.Hour + 1, By: name(i, 2048+6), Backoff: 1<<61 - 1}
	}
	var buckets []pool.BucketState
	for range 32 {
		b := pool.BucketState{
			Name: name(0, 64), Window: longestWindow - 1, Limit: most, Held: most, Stated: limit.Stated{Ahead: most, Peak: most},
			Snapshot: limit.Snapshot{Used: most, Backlog: most - 1, Slice: most - 1, Past: most, Reset: most - 1, Ends: time.Unix(1<<40, 999_999_999)},
		}
		for range 33 {
			b.Slices = append(b.Slices, most)
		}
		buckets = append(buckets, b)
	}
	k := pool.KeyState{ID: name(0, 256), Group: name(0, 256), By: name(0, 2048+6), Organization: name(0, 128), Barred: map[string]pool.RestState{}, Shared: buckets}
	c := pool.ClassState{Name: name(0, 256), Rest: cooldown(0)}
	for i := range 300 {
		k.Barred[name(i, 256)] = *cooldown(i)
	}
	for i := range 256 {
		c.Models = append(c.Models, name(i, 256)) // 64 KiB
	}
	s := &pool.State{
		Whole: true, Classes: []pool.ClassState{c}, Keys: []pool.KeyState{k},
		Groups:   []pool.GroupState{{Name: name(0, 256), Rest: cooldown(0), Shared: buckets}},
		Accounts: []pool.AccountState{{Group: name(0, 256), Class: name(0, 256), Rest: cooldown(0), Buckets: buckets}},
		Own:      []pool.OwnState{{Key: name(0, 256), Class: name(0, 256), Buckets: buckets}},
	}
	largest := map[kind]int{}
	for _, p := range parts(s, time.Minute) {
		largest[p.kind] = len(p.b)
		assert.LessOrEqual(t, len(p.b), maxChunk-64, "kind %d", p.kind)
	}
	t.Logf("bytes by kind: %v", largest)
	put, _ := NewLog(1, nil).Change(s, time.Minute)
	for _, b := range put {
		assert.LessOrEqual(t, len(b), maxChunk)
	}
	r, err := Decode(put)
	require.NoError(t, err)
	got := r.State.Keys[0].Barred
	assert.Len(t, got, barredBytes/(256+2048+6+33))
	for i := range len(got) {
		assert.Contains(t, got, name(299-i, 256))
	}
}

// Whatever the bytes are, they are read, or refused with an error that says what to do. What is
// read is what would be written.
func FuzzDecode(f *testing.F) {
	text, err := os.ReadFile("testdata/version1.json")
	require.NoError(f, err)
	f.Add(text)
	r, err := Decode(map[string][]byte{"record": text})
	require.NoError(f, err)
	put, _ := NewLog(1, nil).Change(r.State, time.Minute)
	for _, b := range put {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(map[string][]byte{"chunk": b})
		if err != nil {
			require.Regexp(t, "; start once with --state-lost|use the one that wrote it", err.Error())
			return
		}
		put, _ := NewLog(1, nil).Change(r.State, r.MaxTTL)
		again, err := Decode(put)
		require.NoError(t, err)
		if len(b) < barredBytes { // else what a part has may be cut
			require.Equal(t, r, again)
		}
	})
}

// ledger is a store, and what should be in it.
type ledger struct {
	log    *Log
	stored map[string][]byte
	want   map[id]int64 // the number that each account has, and what a key has of its own
	next   *pool.State  // all that has changed since the last save that was known to succeed
	at     pool.Time
}

func (l *ledger) write(x id) {
	l.want[x]++
	if x.kind == own {
		l.next.Own = append(l.next.Own, pool.OwnState{Key: x.of, Class: x.name, Buckets: []pool.BucketState{{Limit: l.want[x]}}})
		return
	}
	l.next.Accounts = append(l.next.Accounts, pool.AccountState{
		Group: x.of, Class: x.name, Window: int(l.want[x]) % 1000, Buckets: []pool.BucketState{{Limit: l.want[x]}},
	})
}

// all are all accounts and what keys have of their own, in order.
func (l *ledger) all() []id {
	return slices.SortedFunc(maps.Keys(l.want), func(a, b id) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.of, b.of), cmp.Compare(a.name, b.name))
	})
}

// add makes a class, with an account in every group, and limits of their own of some keys.
func (l *ledger) add(name string) {
	if _, ok := l.want[id{account, "0", name}]; ok {
		return
	}
	l.next.Classes = append(l.next.Classes, pool.ClassState{Name: name})
	for i := range 7 {
		l.write(id{account, fmt.Sprint(i), name})
	}
	for i := range 3 {
		l.write(id{own, fmt.Sprint(i), name})
	}
}

func (l *ledger) forget(name string) {
	maps.DeleteFunc(l.want, func(x id, _ int64) bool { return x.name == name })
	l.next.Gone = append(l.next.Gone, name)
	l.next.Classes = slices.DeleteFunc(l.next.Classes, func(c pool.ClassState) bool { return c.Name == name })
	l.next.Accounts = slices.DeleteFunc(l.next.Accounts, func(a pool.AccountState) bool { return a.Class == name })
	l.next.Own = slices.DeleteFunc(l.next.Own, func(o pool.OwnState) bool { return o.Class == name })
}

// whole makes the next state a whole one.
func (l *ledger) whole() {
	l.next = &pool.State{Whole: true}
	for _, x := range l.all() {
		l.write(x)
		if x.kind == account && x.of == "0" {
			l.next.Classes = append(l.next.Classes, pool.ClassState{Name: x.name})
		}
	}
}

// save saves what has changed, or fails; then the next save has it all again.
func (l *ledger) save(t *rapid.T, lands, known bool) {
	l.at++
	l.next.At = l.at
	put, drop := l.log.Change(l.next, time.Minute)
	if !lands {
		return
	}
	for _, id := range drop {
		delete(l.stored, id)
	}
	maps.Copy(l.stored, put)
	l.judge(t)
	if known {
		l.log.Saved()
		l.next = &pool.State{}
	}
}

func (l *ledger) judge(t *rapid.T) {
	r, err := Decode(l.stored)
	require.NoError(t, err)
	got := map[id]int64{}
	for _, a := range r.State.Accounts {
		got[id{account, a.Group, a.Class}] = a.Buckets[0].Limit
		require.EqualValues(t, a.Buckets[0].Limit%1000, a.Window)
	}
	for _, o := range r.State.Own {
		got[id{own, o.Key, o.Class}] = o.Buckets[0].Limit
	}
	require.Equal(t, l.want, got)
	require.Equal(t, l.at, r.State.At)
	require.LessOrEqual(t, len(l.stored), 4*fanout)
}

// A log that saves changes of accounts and of keys says what each was last, through saves that fail with or
// without effect, classes that go and come back, and owners that follow.
func TestLogSaysWhatIsLatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{log: NewLog(1, nil), stored: map[string][]byte{}, want: map[id]int64{}, next: &pool.State{Whole: true}}
		for range 60 {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "class")
			switch rapid.IntRange(0, 19).Draw(t, "step") {
			case 0:
				l.forget(name)
			case 1:
				l.whole()
			case 2:
				l.log = NewLog(uint64(l.at)+2, l.stored)
				l.whole()
			case 3, 4, 5, 6:
				l.add(name)
			default:
				if all := l.all(); len(all) > 0 {
					l.write(rapid.SampledFrom(all).Draw(t, "which"))
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "save") > 0 {
				l.save(t, rapid.IntRange(0, 4).Draw(t, "lands") > 0, rapid.IntRange(0, 4).Draw(t, "known") > 0)
			}
		}
	})
}

// What is written in the long run is a few times what changes, and what is kept is not much
// more than what counts, however the changes are spread.
func TestALogStaysSmall(t *testing.T) {
	l, stored := NewLog(1, nil), map[string][]byte{}
	s := &pool.State{Whole: true, Classes: []pool.ClassState{{Name: "c"}}}
	const accounts, each = 25_000, 50
	of := func(i, n int) pool.AccountState {
		return pool.AccountState{Group: fmt.Sprint("group-", i), Class: "c", Buckets: []pool.BucketState{{Window: 24 * time.Hour, Limit: 10_000, Snapshot: limit.Snapshot{Used: int64(n)}}}}
	}
	for i := range accounts {
		s.Accounts = append(s.Accounts, of(i, 0))
	}
	var written, changed, most int
	for n := range 2000 {
		put, drop := l.Change(s, time.Minute)
		l.Saved()
		for _, id := range drop {
			delete(stored, id)
		}
		for id, b := range put {
			require.NotContains(t, stored, id, "no chunk is written twice")
			require.LessOrEqual(t, len(b), maxChunk)
			if n > 0 {
				written += len(b)
			}
		}
		maps.Copy(stored, put)
		if n > 0 {
			for _, p := range parts(s, time.Minute) {
				changed += len(p.b)
			}
		}
		total := 0
		for _, b := range stored {
			total += len(b)
		}
		most = max(most, total)
		s = &pool.State{At: pool.Time(n) * pool.Time(time.Second)}
		for i := range each {
			s.Accounts = append(s.Accounts, of((n*7919+i*104729)%accounts, n))
		}
	}
	t.Logf("%d bytes written of %d that changed, %.1f times; %d kept at most, in %d chunks", written, changed, float64(written)/float64(changed), most, len(stored))
	require.Less(t, written, 5*changed)
	require.Less(t, most, 3*accounts*30)
	require.Less(t, len(stored), 80)
}

func BenchmarkEncode(b *testing.B) {
	s := large()
	size := 0
	for b.Loop() {
		put, _ := NewLog(1, nil).Change(s, time.Minute)
		size = 0
		for _, c := range put {
			size += len(c)
		}
	}
	b.SetBytes(int64(size))
	b.ReportMetric(float64(size)/float64(len(s.Accounts)), "B/account")
}

func BenchmarkDecode(b *testing.B) {
	put, _ := NewLog(1, nil).Change(large(), time.Minute)
	size := 0
	for _, c := range put {
		size += len(c)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		_, err := Decode(put)
		require.NoError(b, err)
	}
}

// large is the state of 100 keys for 300 classes, with three limits each.
func large() *pool.State {
	s := &pool.State{Whole: true, At: 1 << 52}
	for c := range 300 {
		name := fmt.Sprint("some-model-", c)
		s.Classes = append(s.Classes, pool.ClassState{Name: name})
		for k := range 100 {
			a := pool.AccountState{Group: fmt.Sprint("key-", k), Class: name}
			for d := range 3 {
				b := pool.BucketState{Dimension: provider.Dimension(d), Window: 24 * time.Hour, Limit: 10_000, Stated: limit.Stated{Ahead: 100}}
				b.Used, b.Slice = int64(c+k), 2700*time.Second
				b.Slices = []int64{int64(c), 0, 0, 5, 0, 0, int64(k)}
				a.Buckets = append(a.Buckets, b)
			}
			s.Accounts = append(s.Accounts, a)
		}
	}
	return s
}

package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"
)

// bbolt trusts its pages. A damaged page makes it panic, read outside of its memory mapping
// or recurse without end, and partly in goroutines of its own, where we cannot recover. So
// every page that bbolt would follow is checked with ordinary reads before bbolt opens the
// file. The layout is that of bbolt's file version 2:
//
//	page:   id 8, flags 2, count 2, overflow 4 (further pages), then elements
//	meta:   magic 4, version 4, page size 4, flags 4, root 8, sequence 8,
//	        freelist 8, high water mark 8, txid 8, checksum 8
//	branch: count × (position 4, key size 4, child 8), then keys
//	leaf:   count × (flags 4, position 4, key size 4, value size 4), then data
//
// Positions count from the start of their element. Integers are in the byte order of the
// machine.
const (
	headerSize  = 16
	metaSize    = 64
	elementSize = 16
	bucketSize  = 16 // root 8, sequence 8; root 0 is followed by a page within the value

	branchFlag   = 0x01
	leafFlag     = 0x02
	metaFlag     = 0x04
	freelistFlag = 0x10

	noFreelist = ^uint64(0)
)

var order = binary.NativeEndian

// meta is the content of one of the first two pages, which bbolt writes in turn.
type meta struct {
	pageSize, root, freelist, end, txid uint64
}

// verifier checks the pages of a file.
type verifier struct {
	file io.ReaderAt
	meta
	used map[uint64]bool
}

// verify checks all pages that the latest transaction reaches, and returns how many bytes
// they take.
//
// Both meta pages must be good. If the latest one is damaged, bbolt silently continues with
// the transaction before, and an acknowledged Save or Claim is lost. A crash does not damage
// a meta page, because each is written within one sector.
func verify(file io.ReaderAt, size int64) (live int64, err error) {
	first, err := readMeta(file, 0, 0)
	if err != nil {
		return 0, err
	}
	second, err := readMeta(file, 1, int64(first.pageSize))
	if err != nil {
		return 0, err
	}
	if second.pageSize != first.pageSize {
		return 0, corrupt("its two meta pages differ in page size")
	}
	latest := first
	if second.txid > first.txid {
		latest = second
	}
	if uint64(size)/latest.pageSize < latest.end {
		return 0, corrupt("it has %d bytes of %d", size, latest.end*latest.pageSize)
	}
	v := verifier{file: file, meta: latest, used: map[uint64]bool{0: true, 1: true}}
	if err := v.tree(latest.root, bounds{}); err != nil {
		return 0, err
	}
	live = int64(len(v.used)) * int64(v.pageSize)
	return live, v.freelist()
}

func readMeta(file io.ReaderAt, id uint64, at int64) (meta, error) {
	b := make([]byte, headerSize+metaSize)
	if err := readAt(file, b, at); err != nil {
		return meta{}, err
	}
	if order.Uint64(b) != id || order.Uint16(b[8:]) != metaFlag {
		return meta{}, corrupt("no meta page at byte %d", at)
	}
	b = b[headerSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if order.Uint32(b) != 0xED0CDAED || order.Uint32(b[4:]) != 2 || order.Uint64(b[56:]) != sum.Sum64() {
		return meta{}, corrupt("no meta page at byte %d", at)
	}
	m := meta{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), end: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}
	if m.pageSize < 512 || m.pageSize > 1<<24 || m.pageSize&(m.pageSize-1) != 0 || m.end > 1<<40 {
		return meta{}, corrupt("impossible sizes at byte %d", at)
	}
	return m, nil
}

func readAt(file io.ReaderAt, b []byte, at int64) error {
	switch n, err := file.ReadAt(b, at); {
	case n == len(b):
		return nil
	case err == io.EOF:
		return corrupt("it ends at byte %d", at+int64(n))
	default:
		return err
	}
}

// page reads a page with its overflow pages, and fails if one of them was read before.
func (v *verifier) page(id uint64) ([]byte, error) {
	if id < 2 || id >= v.end {
		return nil, corrupt("page %d of %d", id, v.end)
	}
	header := make([]byte, headerSize)
	if err := readAt(v.file, header, int64(id*v.pageSize)); err != nil {
		return nil, err
	}
	last := id + uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || last >= v.end {
		return nil, corrupt("page %d is none", id)
	}
	for i := id; i <= last; i++ {
		if v.used[i] {
			return nil, corrupt("page %d is used twice", i)
		}
		v.used[i] = true
	}
	b := make([]byte, (last-id+1)*v.pageSize)
	return b, readAt(v.file, b, int64(id*v.pageSize))
}

// bounds are the bounds of the keys below a page: at least low and less than high. Nil is no
// bound.
type bounds struct{ low, high []byte }

func (b *bounds) contain(key []byte) bool {
	return bytes.Compare(key, b.low) >= 0 && (b.high == nil || bytes.Compare(key, b.high) < 0)
}

// tree checks a page and all pages below it.
func (v *verifier) tree(id uint64, within bounds) error {
	b, err := v.page(id)
	if err != nil {
		return err
	}
	return v.elements(id, b, within)
}

// elements checks the elements of a branch or leaf page, which may be inside a value.
func (v *verifier) elements(id uint64, page []byte, within bounds) error {
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != leafFlag && flags != branchFlag || flags == branchFlag && count == 0 || headerSize+count*elementSize > len(page) {
		return corrupt("page %d is neither branch nor leaf", id)
	}
	var before []byte
	for i := range count {
		key, value, err := element(page, i)
		if err != nil {
			return corrupt("page %d: %v", id, err)
		}
		if i > 0 && bytes.Compare(before, key) >= 0 || !within.contain(key) {
			return corrupt("page %d: keys are out of order", id)
		}
		before = key
		e := page[headerSize+i*elementSize:]
		switch {
		case flags == branchFlag:
			below := bounds{low: key, high: within.high}
			if i+1 < count {
				if below.high, _, err = element(page, i+1); err != nil {
					return corrupt("page %d: %v", id, err)
				}
			}
			err = v.tree(order.Uint64(e[8:]), below)
		case order.Uint32(e) == 1:
			err = v.bucket(id, value)
		case order.Uint32(e) != 0:
			err = corrupt("page %d: an element of unknown kind", id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// element returns the key of an element and, in a leaf, its value.
func element(page []byte, i int) (key, value []byte, err error) {
	at := headerSize + i*elementSize
	e := page[at:]
	position, keySize, valueSize := uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), uint64(0)
	if order.Uint16(page[8:]) == leafFlag {
		position, keySize, valueSize = keySize, uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
	}
	data := page[at:]
	if position < elementSize || position+keySize+valueSize > uint64(len(data)) {
		return nil, nil, corrupt("an element is outside")
	}
	data = data[position:]
	return data[:keySize], data[keySize : keySize+valueSize], nil
}

func (v *verifier) bucket(id uint64, value []byte) error {
	if len(value) < bucketSize {
		return corrupt("page %d: a bucket without a root", id)
	}
	if root := order.Uint64(value); root != 0 {
		return v.tree(root, bounds{})
	}
	if len(value) < bucketSize+headerSize || order.Uint16(value[bucketSize+8:]) != leafFlag {
		return corrupt("page %d: a bucket without a page", id)
	}
	return v.elements(id, value[bucketSize:], bounds{})
}

// freelist checks that no page in use is listed as free, because bbolt would overwrite it.
func (v *verifier) freelist() error {
	if v.meta.freelist == noFreelist {
		return nil
	}
	page, err := v.page(v.meta.freelist)
	if err != nil {
		return err
	}
	count, list := uint64(order.Uint16(page[10:])), page[headerSize:]
	if count == 0xFFFF {
		count, list = order.Uint64(list), list[8:]
	}
	if order.Uint16(page[8:]) != freelistFlag || count > uint64(len(list)/8) {
		return corrupt("page %d is no list of free pages", v.meta.freelist)
	}
	before := uint64(1)
	for i := range count {
		id := order.Uint64(list[8*i:])
		if id <= before || id >= v.end || v.used[id] {
			return corrupt("page %d cannot be free", id)
		}
		before = id
	}
	return nil
}

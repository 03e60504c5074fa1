package pool

// placed is anything that remembers where in its heap it stands, so that it can
// be moved or taken out from the middle.
type placed interface {
	place() *int32
}

// heap is a heap with four children a node, which is half as deep as one with
// two; smallest key first. An element stands in at most one
// heap at a time; its place is -1 while it stands in none.
type heap[T placed] struct {
	items []entry[T]
}

type entry[T placed] struct {
	key int64
	v   T
}

func (h *heap[T]) len() int { return len(h.items) }

// min gives the first element; the heap must not be empty.
func (h *heap[T]) min() (T, int64) { return h.items[0].v, h.items[0].key }

func (h *heap[T]) push(v T, key int64) {
	h.items = append(h.items, entry[T]{})
	h.up(len(h.items)-1, entry[T]{key, v})
}

// update gives v, which is in the heap, another key.
func (h *heap[T]) update(v T, key int64) {
	i := int(*v.place())
	h.fix(i, entry[T]{key, v})
}

// remove takes out v, which is in the heap.
func (h *heap[T]) remove(v T) {
	i := int(*v.place())
	last := len(h.items) - 1
	moved := h.items[last]
	h.items[last] = entry[T]{}
	h.items = h.items[:last]
	if i != last {
		h.fix(i, moved)
	}
	*v.place() = -1
}

func (h *heap[T]) fix(i int, e entry[T]) {
	if i > 0 && e.key < h.items[(i-1)/4].key {
		h.up(i, e)
	} else {
		h.down(i, e)
	}
}

// up and down move a hole at i to where e belongs, and put e there.

func (h *heap[T]) up(i int, e entry[T]) {
	for i > 0 {
		parent := (i - 1) / 4
		if h.items[parent].key <= e.key {
			break
		}
		h.set(i, h.items[parent])
		i = parent
	}
	h.set(i, e)
}

func (h *heap[T]) down(i int, e entry[T]) {
	for {
		child := 4*i + 1
		if child >= len(h.items) {
			break
		}
		for r := child + 1; r < min(4*i+5, len(h.items)); r++ {
			if h.items[r].key < h.items[child].key {
				child = r
			}
		}
		if h.items[child].key >= e.key {
			break
		}
		h.set(i, h.items[child])
		i = child
	}
	h.set(i, e)
}

func (h *heap[T]) set(i int, e entry[T]) {
	h.items[i] = e
	*e.v.place() = int32(i)
}

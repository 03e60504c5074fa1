package canary

import (
	"fmt"
	"reflect"
)

// Object searches every text that reflection can reach from v, through pointers and
// unexported fields, as debuggers and dumps do. Nobody may change v meanwhile. What
// closures hold is out of its reach, and theirs.
func Object(place string, v any) {
	heard()
	suite.object(place, v)
}

func (d *detector) object(place string, v any) (reached int) {
	w := &walk{detector: d, place: place, seen: map[visit]bool{}}
	w.value(reflect.ValueOf(v))
	return w.reached
}

type visit struct {
	at  uintptr
	len int
	t   reflect.Type
}

type walk struct {
	*detector
	place   string
	seen    map[visit]bool
	reached int // values
}

// again reports whether something was there before, so that circles end.
func (w *walk) again(v reflect.Value, n int) bool {
	k := visit{v.Pointer(), n, v.Type()}
	if w.seen[k] {
		return true
	}
	w.seen[k] = true
	return false
}

func (w *walk) value(v reflect.Value) {
	if !v.IsValid() {
		return
	}
	w.reached++
	t := v.Type()
	if t == reflect.TypeFor[detector]() { // which knows what to search for
		return
	}
	switch v.Kind() {
	case reflect.String:
		w.note(t, []byte(v.String()))
	case reflect.Pointer:
		if !v.IsNil() && !w.again(v, 0) {
			w.value(v.Elem())
		}
	case reflect.Interface:
		w.value(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			w.value(v.Field(i))
		}
	case reflect.Map:
		if !v.IsNil() && !w.again(v, v.Len()) {
			for i := v.MapRange(); i.Next(); {
				w.value(i.Key())
				w.value(i.Value())
			}
		}
	case reflect.Slice:
		if !v.IsNil() && !w.again(v, v.Len()) {
			w.elements(v)
		}
	case reflect.Array:
		w.elements(v)
	}
}

func (w *walk) elements(v reflect.Value) {
	const most = 1 << 26 // a file that is mapped into memory is an array of any length
	if v.Len() > most {
		return
	}
	switch v.Type().Elem().Kind() {
	case reflect.Uint8:
		b := make([]byte, v.Len())
		for i := range b {
			b[i] = byte(v.Index(i).Uint())
		}
		w.note(v.Type(), b)
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr, reflect.Float32, reflect.Float64:
	default:
		for i := range v.Len() {
			w.value(v.Index(i))
		}
	}
}

func (w *walk) note(t reflect.Type, text []byte) {
	for _, h := range w.search(text, 0) {
		w.report(fmt.Sprintf("%s, in a %v", w.place, t), text, h)
	}
}

package provider

import "strings"

// leaf is the meaning of a value in a body: a count of usagePaths, or a text of
// failurePaths.
type leaf uint8

const nothing leaf = 0

// path is where a value stands: names, with "[]" for any element of an array
// and "*" for any name.
type path struct {
	to   string
	leaf leaf
}

// node is a place in a JSON document, as a step on a path that somebody wants.
type node struct {
	name    string
	members []*node // of an object
	any     *node   // members by any other name
	each    *node   // of an array's elements
	leaf    leaf    // what the value means
}

// member finds a member of an object; nil if nobody wants it. Keys are compared
// as they are written: no provider escapes a letter in its own.
func (n *node) member(key []byte) *node {
	for _, m := range n.members {
		if m.name == string(key) {
			return m
		}
	}
	return n.any
}

// documents is the tree of all paths. A document is an object, or the element
// of an array; within it no path leads through an array unless it says so, so
// that what a model writes, such as the arguments of a tool, is out of reach.
var documents = func() node {
	top := node{each: &node{leaf: aDocument}}
	for _, p := range usagePaths {
		for _, in := range [...]string{"", "message.", "response.", "x_groq.", "delta.", "metadata."} {
			top.each.plant(path{in + p.to, p.leaf})
		}
	}
	for _, p := range failurePaths {
		top.each.plant(p)
	}
	return top
}()

// plant adds a path.
func (n *node) plant(p path) {
	for _, step := range strings.Split(p.to, ".") {
		name := strings.TrimRight(step, "[]")
		n = n.child(name)
		for range (len(step) - len(name)) / 2 {
			if n.each == nil {
				n.each = new(node)
			}
			n = n.each
		}
	}
	n.leaf = p.leaf
}

func (n *node) child(name string) *node {
	if name == "*" {
		if n.any == nil {
			n.any = new(node)
		}
		return n.any
	}
	for _, m := range n.members {
		if m.name == name {
			return m
		}
	}
	m := &node{name: name}
	n.members = append(n.members, m)
	return m
}

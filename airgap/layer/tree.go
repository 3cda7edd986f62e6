package layer

import (
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
)

// Bounds on what putting layers together may cost.
const (
	maxHops  = 255      // symbolic links on the way to one file
	maxSteps = 64 << 20 // folders looked into, for all files
	maxNodes = 500_000  // files, and folders that no layer describes
)

// Tree is a file system in memory that layers are applied to: their entries without
// their content. The zero Tree is not usable; see [NewTree].
type Tree struct {
	root   *Node
	layers int
	steps  int
	nodes  int
	folder *Entry // stands for each folder that no layer describes
}

// Node is a file of a Tree. Two names for the same Node are hard links.
type Node struct {
	*Entry       // Type is none of HardLink, Whiteout and Opaque
	Layer  int32 // which layer it is from, counted from 0; -1 if none has an entry for it
	Index  int32 // of its entry in that layer

	children map[string]*Node // of a Dir
}

// NewTree is an empty root.
func NewTree() *Tree {
	t := &Tree{folder: &Entry{Name: ".", Type: Dir, Mode: 0o755}}
	t.root = t.implied()
	return t
}

// implied is a folder that no layer describes.
func (t *Tree) implied() *Node { return &Node{Entry: t.folder, Layer: -1} }

// put adds or replaces what a folder has under a name.
func (t *Tree) put(dir *Node, name string, n *Node) error {
	if dir.children == nil {
		dir.children = map[string]*Node{}
	}
	if dir.children[name] == nil {
		if t.nodes++; t.nodes > maxNodes {
			return fmt.Errorf("%w: more than %d files and folders", ErrRefused, maxNodes)
		}
	}
	dir.children[name] = n
	return nil
}

// Apply applies the next layer: first what it takes away of those below, then its
// entries in their order. The entries must not change while the Tree is used.
func (t *Tree) Apply(entries []Entry) error {
	for i := range entries {
		e := &entries[i]
		switch e.Type {
		case Whiteout:
			if dir, err := t.walk(path.Dir(e.Name), false); err == nil {
				delete(dir.children, path.Base(e.Name))
			}
		case Opaque:
			if dir, err := t.walk(e.Name, false); err == nil {
				clear(dir.children)
			}
		}
		if t.steps > maxSteps {
			return t.tooLong()
		}
	}
	for i := range entries {
		if err := t.apply(&entries[i], i); err != nil {
			return fmt.Errorf("%s: %w", quote(entries[i].Name), err)
		}
	}
	t.layers++
	return nil
}

func (t *Tree) apply(e *Entry, index int) error {
	switch e.Type {
	case Whiteout, Opaque:
		return nil
	}
	if e.Name == "." {
		t.root.Entry, t.root.Layer, t.root.Index = e, int32(t.layers), int32(index)
		return nil
	}
	dir, err := t.walk(path.Dir(e.Name), true)
	if err != nil {
		return err
	}
	base := path.Base(e.Name)
	n := &Node{Entry: e, Layer: int32(t.layers), Index: int32(index)}
	switch e.Type {
	case HardLink:
		from, err := t.walk(path.Dir(e.Link), false)
		if err != nil {
			return fmt.Errorf("%w: a hard link to %s: %w", ErrMalformed, quote(e.Link), err)
		}
		if n = from.children[path.Base(e.Link)]; n == nil || n.Type == Dir {
			return fmt.Errorf("%w: a hard link to %s, which is no file", ErrMalformed, quote(e.Link))
		}
	case Dir:
		if old := dir.children[base]; old != nil && old.Type == Dir {
			n.children = old.children
		}
	}
	return t.put(dir, base, n)
}

// walk finds a folder. Symbolic links on the way lead where they would in a container
// whose root this is. With create, folders that are missing are made.
func (t *Tree) walk(name string, create bool) (*Node, error) {
	at, _, err := t.follow(name, create, true)
	if err == nil && at.Type != Dir {
		err = fmt.Errorf("%w: %s is no folder", ErrMalformed, quote(name))
	}
	return at, err
}

// follow finds a file and its path without symbolic links. The last part of name is
// followed only with last.
func (t *Tree) follow(name string, create, last bool) (*Node, string, error) {
	nodes, names, length := []*Node{t.root}, []string{}, 0
	rest := strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if t.steps++; t.steps > maxSteps {
			return nil, "", t.tooLong()
		}
		at := nodes[len(nodes)-1]
		if part == "" || part == "." {
			continue
		}
		if at.Type != Dir {
			return nil, "", fmt.Errorf("%w: %s is no folder", ErrMalformed, quote(path.Join(names...)))
		}
		if part == ".." {
			if len(names) > 0 {
				length -= len(names[len(names)-1]) + 1
				nodes, names = nodes[:len(nodes)-1], names[:len(names)-1]
			}
			continue
		}
		next := at.children[part]
		if next == nil {
			if !create {
				return nil, "", fmt.Errorf("%w: %s", ErrNotExist, quote(name))
			}
			next = t.implied()
			if err := t.put(at, part, next); err != nil {
				return nil, "", err
			}
		}
		if next.Type == Symlink && (last || len(rest) > 0) {
			if hops++; hops > maxHops {
				return nil, "", fmt.Errorf("%w: %s: more than %d links on the way", ErrRefused, quote(name), maxHops)
			}
			if path.IsAbs(next.Link) {
				nodes, names, length = nodes[:1], names[:0], 0
			}
			rest = append(strings.Split(next.Link, "/"), rest...)
			t.steps += len(rest)
			continue
		}
		if length += len(part) + 1; length > maxPath || len(part) > maxName {
			return nil, "", fmt.Errorf("%w: %s leads to a path of more than %d bytes", ErrRefused, quote(name), maxPath)
		}
		nodes, names = append(nodes, next), append(names, part)
	}
	if len(names) == 0 {
		return t.root, ".", nil
	}
	return nodes[len(nodes)-1], strings.Join(names, "/"), nil
}

func (t *Tree) tooLong() error {
	return fmt.Errorf("%w: its links and folders lead on for more than %d steps", ErrRefused, maxSteps)
}

// Find finds a file by a path from the root, and gives its path without symbolic links.
// A symbolic link at the end is not followed.
func (t *Tree) Find(name string) (*Node, string, error) { return t.follow(name, false, false) }

// Follow is Find, and what a symbolic link at the end leads to.
func (t *Tree) Follow(name string) (*Node, string, error) { return t.follow(name, false, true) }

// All gives every file with its path, each folder before what is in it, in the order of
// names. The root, ".", is first.
func (t *Tree) All() iter.Seq2[string, *Node] { return t.Below(".", t.root) }

// Below gives a node, which has that path, and what is below it.
func (t *Tree) Below(name string, n *Node) iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) { below(name, n, yield) }
}

func below(name string, n *Node, yield func(string, *Node) bool) bool {
	if !yield(name, n) {
		return false
	}
	for _, base := range slices.Sorted(maps.Keys(n.children)) {
		if !below(path.Join(name, base), n.children[base], yield) {
			return false
		}
	}
	return true
}

// Against gives every path that one of two trees has with its files in both, nil where
// there is none, in the order of All. The root is left out.
func (t *Tree) Against(o *Tree) iter.Seq2[string, [2]*Node] {
	return func(yield func(string, [2]*Node) bool) { against("", t.root, o.root, yield) }
}

func against(dir string, a, b *Node, yield func(string, [2]*Node) bool) bool {
	var names []string
	for _, n := range []*Node{a, b} {
		if n != nil {
			names = slices.AppendSeq(names, maps.Keys(n.children))
		}
	}
	slices.Sort(names)
	for _, base := range slices.Compact(names) {
		two := [2]*Node{a.child(base), b.child(base)}
		name := path.Join(dir, base)
		if !yield(name, two) || !against(name, two[0], two[1], yield) {
			return false
		}
	}
	return true
}

// child is a file of a folder; nil if there is none.
func (n *Node) child(base string) *Node {
	if n == nil {
		return nil
	}
	return n.children[base]
}

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Faults that callers tell apart.
var (
	// ErrMalformed: it is no layer, or it ends early.
	ErrMalformed = errors.New("malformed layer")
	// ErrRefused: it has what no layer needs, such as names that lead outside.
	ErrRefused = errors.New("refused")
	// ErrNotExist: there is no such file in the tree.
	ErrNotExist = errors.New("no such file")
)

// Type is what kind of change an entry is.
type Type byte

// The types; all but the last two are kinds of files.
const (
	File     Type = 'f'
	Dir      Type = 'd'
	Symlink  Type = 'l'
	Char     Type = 'c'
	Block    Type = 'b'
	Fifo     Type = 'p'
	HardLink Type = 'h' // another name for Link, a path in the same tree
	Whiteout Type = 'w' // Name is gone, as layers below have it
	Opaque   Type = 'o' // so is everything in the folder Name
)

// Entry is one change that a layer makes.
type Entry struct {
	Name string // relative to the root, clean, with slashes; "." is the root
	Type Type
	// Mode has the permission bits, setuid, setgid and sticky, as chmod(2) takes them.
	Mode     uint32
	UID, GID uint32
	Size     int64 // of a File, bytes
	ModTime  int64 // seconds since 1970
	// Link is a Symlink's target as it stands, a HardLink's Name, or the "major:minor" of
	// a Char or Block.
	Link string
	// Xattrs are extended attributes: "name=value" in order, a zero byte after each.
	Xattrs string
	// Sum is the SHA-256 of a File's content, 32 bytes, if it was asked for.
	Sum string
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	xattrs   = "SCHILY.xattr."

	maxPath = 4096 // PATH_MAX: nothing longer can be opened
	maxName = 255  // NAME_MAX
)

// parse turns a tar header into an entry; ok is false for what is no change.
func parse(h *tar.Header) (e Entry, ok bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, false, nil
	}
	if e.Name, err = clean(h.Name); err != nil {
		return e, false, err
	}
	e.Mode, e.UID, e.GID = uint32(h.Mode)&0o7777, uint32(h.Uid), uint32(h.Gid)
	if !h.ModTime.IsZero() {
		e.ModTime = h.ModTime.Unix()
	}
	if dir, base := path.Split(e.Name); strings.HasPrefix(base, whiteout) {
		return parseWhiteout(path.Clean(dir), base)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Type, e.Size = File, h.Size
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		e.Type, e.Link = Symlink, h.Linkname
		if e.Link == "" || len(e.Link) > maxPath || strings.Contains(e.Link, "\x00") {
			return e, false, fmt.Errorf("%w: %s is a link to %s", ErrRefused, quote(e.Name), quote(e.Link))
		}
	case tar.TypeLink:
		e.Type = HardLink
		if e.Link, err = clean(h.Linkname); err != nil {
			return e, false, fmt.Errorf("hard link %s: %w", quote(e.Name), err)
		}
	case tar.TypeChar, tar.TypeBlock:
		e.Type, e.Link = Char, fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		if h.Typeflag == tar.TypeBlock {
			e.Type = Block
		}
	case tar.TypeFifo:
		e.Type = Fifo
	default:
		return e, false, fmt.Errorf("%w: %s is of the tar type %q", ErrRefused, quote(e.Name), string(h.Typeflag))
	}
	if e.Name == "." && e.Type != Dir {
		return e, false, fmt.Errorf("%w: its root is no folder", ErrRefused)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(k, xattrs); ok {
			e.Xattrs += name + "=" + h.PAXRecords[k] + "\x00"
		}
	}
	return e, true, nil
}

func parseWhiteout(dir, base string) (Entry, bool, error) {
	name := strings.TrimPrefix(base, whiteout)
	switch {
	case base == opaque:
		return Entry{Name: dir, Type: Opaque}, true, nil
	case strings.HasPrefix(name, whiteout):
		return Entry{}, false, nil // what AUFS keeps for itself
	case name == "" || name == "." || name == "..":
		return Entry{}, false, fmt.Errorf("%w: %s in %s is a whiteout of no file", ErrRefused, quote(base), quote(dir))
	}
	return Entry{Name: path.Join(dir, name), Type: Whiteout}, true, nil
}

// clean makes a name relative to the root. A leading slash is taken as the root, as
// container runtimes do; a way up is refused wherever it would end.
func clean(name string) (string, error) {
	if len(name) > maxPath || strings.Contains(name, "\x00") {
		return "", fmt.Errorf("%w: a name of %d bytes: %s", ErrRefused, len(name), quote(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || len(part) > maxName {
			return "", fmt.Errorf("%w: the name %s leads outside or is too long", ErrRefused, quote(name))
		}
	}
	out := path.Clean("/" + name)[1:]
	if out == "" {
		return ".", nil
	}
	return out, nil
}

// quote keeps foreign names out of messages at length, and from steering a terminal.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}

// Differs lists what distinguishes two files of the same name, in words; nothing if they
// are the same. Times and, of folders, what is in them do not count. Both must have been
// read with Sums.
func (e Entry) Differs(o Entry) []string {
	if e.Type != o.Type {
		return []string{"type"}
	}
	var out []string
	note := func(differs bool, what string) {
		if differs {
			out = append(out, what)
		}
	}
	note(e.Type == File && (e.Sum != o.Sum || e.Size != o.Size), "content")
	note(e.Type == Symlink && e.Link != o.Link, "target")
	note((e.Type == Char || e.Type == Block) && e.Link != o.Link, "device")
	note(e.Type != Symlink && e.Mode != o.Mode, "mode")
	note(e.UID != o.UID || e.GID != o.GID, "owner")
	note(e.Xattrs != o.Xattrs, "attributes")
	return out
}

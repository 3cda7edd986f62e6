// Package watch tells which files of a folder appeared, were replaced or went
// away while a program runs. What counts is which file it is (device, inode, size
// and times), never that it is newer; and a file counts when it stands still and
// nobody has it open for writing, so that one being copied is waited for.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Kind is what happened to a file.
type Kind string

// The kinds of changes.
const (
	Added    Kind = "added"
	Replaced Kind = "replaced"
	Removed  Kind = "removed"
)

// Change is one file that is not what it was.
type Change struct {
	Path string
	Kind Kind
}

// Identity tells one state of a file from every other.
type Identity struct {
	Device, Inode     uint64
	Size              int64
	Modified, Changed int64 // nanoseconds since 1970; Changed is when the inode did
}

// Of is the identity that a file had when it was looked at.
func Of(info fs.FileInfo) Identity {
	id := Identity{Size: info.Size(), Modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Device, id.Inode, id.Changed = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

// Options say what to watch. The zero durations mean what fits a node.
type Options struct {
	// Dir is watched with its folders; it need not exist yet. Hidden files and folders
	// are passed over.
	Dir string
	// Known are the files that the caller has read, as they were just before.
	Known map[string]Identity
	// Want tells by its base name whether a file counts.
	Want func(name string) bool
	// Quiet is how long a file must stand still. Where the file system can't say who has
	// a file open, it is six times that.
	Quiet time.Duration
	// Poll is how often is looked without having been told, for file systems that tell
	// nothing.
	Poll time.Duration
}

const (
	defaultQuiet = 500 * time.Millisecond
	defaultPoll  = 15 * time.Second
	// blindFactor lengthens Quiet where nothing but standing still can be seen.
	blindFactor = 6
)

// Folder watches a folder until ctx ends, then closes the channel. Changes that are seen
// together come together, sorted by path; while the receiver is busy, they gather.
func Folder(ctx context.Context, o Options) <-chan []Change {
	if o.Quiet == 0 {
		o.Quiet = defaultQuiet
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	w := &watcher{Options: o, known: map[string]Identity{}, pending: map[string]pending{}}
	for path, id := range o.Known {
		w.known[path] = id
	}
	out := make(chan []Change)
	go w.run(ctx, out)
	return out
}

type watcher struct {
	Options
	known   map[string]Identity
	pending map[string]pending
	dirs    []string // seen by the last look
}

// pending is a change that may not be over.
type pending struct {
	id    Identity
	gone  bool
	since time.Time
}

func (w *watcher) run(ctx context.Context, out chan<- []Change) {
	defer close(out)
	told := newNotifier()
	defer told.close()
	for {
		changes := w.look(time.Now())
		for len(changes) == 0 && told.watch(w.dirs) {
			changes = w.look(time.Now())
		}
		if len(changes) > 0 {
			select {
			case <-ctx.Done():
				return
			case out <- changes:
				continue // something may have changed since
			}
		}
		pause := w.Poll
		if len(w.pending) > 0 {
			pause = min(pause, max(w.Quiet/4, 10*time.Millisecond))
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-told.events:
			timer.Stop()
			// A file that is being copied tells of every write.
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(w.Quiet/4, 50*time.Millisecond)):
			}
		case <-timer.C:
		}
	}
}

// look compares the folder with what is known and returns what is settled.
func (w *watcher) look(now time.Time) []Change {
	found := w.list()
	var out []Change
	for path, id := range found {
		known, was := w.known[path]
		if was && known == id {
			delete(w.pending, path)
			continue
		}
		if !w.settled(path, pending{id: id}, now) {
			continue
		}
		kind := Added
		if was {
			kind = Replaced
		}
		out = append(out, Change{path, kind})
		w.known[path] = id
	}
	for path := range w.known {
		if _, there := found[path]; !there && w.settled(path, pending{gone: true}, now) {
			out = append(out, Change{path, Removed})
			delete(w.known, path)
		}
	}
	for path, p := range w.pending {
		_, there := found[path]
		_, was := w.known[path]
		if !there && !p.gone && !was {
			delete(w.pending, path) // it came and went
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// settled tells whether a change is over, and else remembers it.
func (w *watcher) settled(path string, now pending, at time.Time) bool {
	before, waited := w.pending[path]
	if !waited || before.id != now.id || before.gone != now.gone {
		now.since = at
		w.pending[path] = now
		return false
	}
	quiet := w.Quiet
	if !now.gone {
		writing, known := openForWriting(path)
		if writing {
			return false
		}
		if !known {
			quiet *= blindFactor
		}
	}
	if at.Sub(before.since) < quiet {
		return false
	}
	delete(w.pending, path)
	return true
}

// list finds the files that count, and the folders to be told about: those that are
// there, or the nearest above one that is not.
func (w *watcher) list() map[string]Identity {
	found := map[string]Identity{}
	w.dirs = nil
	_ = filepath.WalkDir(w.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away, or will be seen at the next look
		}
		if strings.HasPrefix(entry.Name(), ".") && path != w.Dir {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			w.dirs = append(w.dirs, path)
			return nil
		}
		if !w.Want(entry.Name()) {
			return nil
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			found[path] = Of(info)
		}
		return nil
	})
	for dir := w.Dir; len(w.dirs) == 0 && dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			w.dirs = []string{dir}
		}
	}
	return found
}

// Still returns when a file stands still and nobody has it open for writing, or is gone.
// It fails only when ctx ends.
func Still(ctx context.Context, path string) error {
	w := &watcher{Options: Options{Quiet: defaultQuiet}, pending: map[string]pending{}}
	for {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && w.settled(path, pending{id: Of(info)}, time.Now()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(w.Quiet / 4):
		}
	}
}

package watch

import (
	"slices"

	"github.com/fsnotify/fsnotify"
)

// notifier says that something may have happened in folders, not what: whoever is told
// looks for himself. Without it, because the kernel has no more watches to give for one,
// only polling is left.
type notifier struct {
	events chan struct{}
	inner  *fsnotify.Watcher // nil if there is none
}

func newNotifier() *notifier {
	n := &notifier{events: make(chan struct{}, 1)}
	inner, err := fsnotify.NewWatcher()
	if err != nil {
		return n
	}
	n.inner = inner
	go n.pass()
	return n
}

// pass goes on until the inner watcher is closed.
func (n *notifier) pass() {
	for {
		select {
		case _, ok := <-n.inner.Events:
			if !ok {
				return
			}
		case _, ok := <-n.inner.Errors: // events that were lost: look all the same
			if !ok {
				return
			}
		}
		select {
		case n.events <- struct{}{}:
		default: // it knows already
		}
	}
}

// watch makes dirs the folders that are watched. One that was removed and made again is
// another one, so it is asked which are. It tells whether one is watched from now on: what
// happened in there before was not told of.
func (n *notifier) watch(dirs []string) (more bool) {
	if n.inner == nil {
		return false
	}
	watched := n.inner.WatchList()
	for _, dir := range watched {
		if !slices.Contains(dirs, dir) {
			_ = n.inner.Remove(dir) // it may have gone with its folder
		}
	}
	for _, dir := range dirs {
		if !slices.Contains(watched, dir) && n.inner.Add(dir) == nil { // else polling is left
			more = true
		}
	}
	return more
}

func (n *notifier) close() {
	if n.inner != nil {
		_ = n.inner.Close()
	}
}

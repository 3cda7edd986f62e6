package node

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/prepull"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/watch"
)

const (
	// together is how long is waited for more of the same kind: crictl rmi deletes every
	// name of an image, one by one.
	together = 200 * time.Millisecond
	// resubscribe is the pause before containerd is asked for its events again.
	resubscribe = time.Second
)

// follow goes on where the first import ended, until ctx ends: bundles that appear in the
// folder, are replaced or go away are imported or unpinned, and an image of a bundle that
// somebody deletes from containerd is restored. Then it pulls the images that the folder's
// lists name. Nothing of what goes wrong with a bundle, a list or an image ends it.
func (s *supply) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{supply: s}
	defer func() {
		cancel()
		w.stopPulls()
	}()
	changes := watch.Folder(ctx, watch.Options{Dir: s.folder.Dir, Known: w.known(), Want: counts})
	for ctx.Err() == nil {
		deleted, broke := s.importer.Deleted(ctx)
		w.refill(ctx)
		w.startPulls(ctx)
		w.until(ctx, changes, deleted)
		if ctx.Err() != nil {
			return nil
		}
		if err := broke(); err != nil {
			s.log.Warn("containerd tells of no deleted images for a moment", "error", err)
			pause(ctx, resubscribe)
		}
	}
	return nil
}

// counts tells whether a file of the folder is one that is read.
func counts(name string) bool { return airgap.HasArchiveName(name) || prepull.IsList(name) }

// watching is a node that runs.
type watching struct {
	*supply
	pulls pulls
}

// known are the bundles that were read, as they were then, and the lists, which will be.
func (w *watching) known() map[string]watch.Identity {
	known := map[string]watch.Identity{}
	for _, file := range w.folder.Files {
		if file.Info != nil {
			known[file.Path] = watch.Of(file.Info)
		}
	}
	for _, path := range w.folder.Other {
		if info, err := os.Stat(path); err == nil && prepull.IsList(path) {
			known[path] = watch.Of(info)
		}
	}
	return known
}

// until handles what happens, until ctx ends or containerd's events do.
func (w *watching) until(ctx context.Context, changes <-chan []watch.Change, deleted <-chan string) {
	for {
		var retry <-chan time.Time
		if w.waiting != nil {
			retry = time.After(spacePause)
		}
		select {
		case <-ctx.Done():
			return
		case some, ok := <-changes:
			if !ok {
				return
			}
			w.changedFiles(ctx, some)
		case name, ok := <-deleted:
			if !ok {
				return
			}
			names, more := gather(ctx, name, deleted)
			w.restore(ctx, names)
			if !more {
				return
			}
		case <-retry:
			if w.hasRoom() {
				w.refill(ctx)
			}
		}
	}
}

// gather takes what is deleted soon after.
func gather(ctx context.Context, first string, deleted <-chan string) (names []string, more bool) {
	names = []string{first}
	for {
		select {
		case <-ctx.Done():
			return names, false
		case name, ok := <-deleted:
			if !ok {
				return names, false
			}
			names = append(names, name)
		case <-time.After(together):
			return names, true
		}
	}
}

// refill is fill; what containerd has against it is logged, and tried again with the next
// change.
func (w *watching) refill(ctx context.Context) {
	w.started, w.total = time.Now(), imageimport.Result{}
	if err := w.fill(ctx); err != nil && ctx.Err() == nil {
		w.log.Error("images are not imported", "error", err)
	}
}

// changedFiles reads again what changed in the folder, and nothing else.
func (w *watching) changedFiles(ctx context.Context, changes []watch.Change) {
	bundles, lists := false, false
	before := w.incomplete()
	for _, change := range changes {
		if prepull.IsList(change.Path) {
			w.log.Info("a list of images was "+string(change.Kind), "file", change.Path)
			lists = true
			continue
		}
		bundles = true
		w.changedBundle(change)
	}
	if lists {
		w.stopPulls() // which would pin what is not listed any more
	}
	if bundles {
		w.forget()
		for file, missing := range w.incomplete() {
			if before[file] != missing {
				w.log.Warn("a bundle is not complete", "file", file, "missing", missing)
			}
		}
	}
	w.refill(ctx)
	w.startPulls(ctx)
}

func (w *watching) changedBundle(change watch.Change) {
	if change.Kind == watch.Removed {
		w.log.Info("a bundle was removed", "file", change.Path)
		if err := w.folder.Drop(change.Path); err != nil {
			w.log.Warn("a bundle was removed", "file", change.Path, "error", err)
		}
		return
	}
	file := scan.OpenFile(change.Path)
	if file.Err != nil {
		w.log.Error("a bundle was "+string(change.Kind)+" that cannot be read and is passed over: copy it again, or remove it", "file", change.Path, "error", file.Err)
	} else {
		w.log.Info("a bundle was "+string(change.Kind), "file", change.Path, "images", len(file.Archive.Images()))
	}
	if err := w.folder.Put(file); err != nil {
		w.log.Warn("a bundle was "+string(change.Kind), "file", change.Path, "error", err)
	}
}

// incomplete are the partial bundles whose whole is not in the folder, and what they lack.
func (w *watching) incomplete() map[string]string {
	out := map[string]string{}
	for _, missing := range w.folder.Incomplete() {
		out[missing.File] = missing.Error()
	}
	return out
}

// restore brings back images of bundles that were deleted. Others are nobody's business.
func (w *watching) restore(ctx context.Context, names []string) {
	var ours, listed []string
	lists := w.listed()
	for _, name := range names {
		switch {
		case w.isOurs(name) && !slices.Contains(ours, name):
			ours = append(ours, name)
		case slices.Contains(lists, name):
			listed = append(listed, name)
		}
	}
	if len(ours) > 0 {
		slices.Sort(ours)
		w.log.Warn("images were deleted from containerd and are restored from their bundles", "images", ours)
		w.refill(ctx)
		w.checkRestored(ctx, ours)
	}
	if len(listed) > 0 {
		w.log.Warn("images of lists were deleted from containerd and are pulled again", "images", listed)
		w.startPulls(ctx)
	}
}

// checkRestored says which images are not there, now that all that bundles have is.
func (w *watching) checkRestored(ctx context.Context, names []string) {
	held, err := w.importer.Held(ctx)
	if err != nil || w.waiting != nil {
		return // containerd is going, or it has been said
	}
	var gone []string
	for _, name := range names {
		if !held[name].Whole {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		w.log.Error("images that were deleted cannot be restored: no bundle has them", "images", gone, "folder", w.folder.Dir)
	}
}

func (w *watching) isOurs(name string) bool {
	if w.owned[name] || slices.Contains(w.systemNames(w.importer), name) {
		return true
	}
	for _, file := range w.folder.Files {
		if file.Archive == nil || file.Archive.Format() != airgap.FormatDockerArchive {
			continue
		}
		for _, image := range file.Archive.Images() {
			if slices.Contains(image.Names(), name) {
				return true
			}
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

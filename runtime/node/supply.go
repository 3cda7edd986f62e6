package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/watch"
)

// supply brings what the bundles have into one containerd, again and again.
type supply struct {
	*Content
	importer *imageimport.Importer
	started  time.Time
	total    imageimport.Result
	owned    map[string]bool // names in containerd that are there because of bundles
	waiting  *imageimport.SpaceError
	told     bool // that images are ready
}

// controlPlane brings in what the node itself needs, image by image. What fails because a
// bundle is being replaced is tried again with the new one.
func (s *supply) controlPlane(ctx context.Context, ready func(reference string)) error {
	for {
		err := s.needed(ctx, ready)
		if err == nil || ctx.Err() != nil {
			return err
		}
		again, reopenErr := s.reopenChanged(ctx, err)
		if reopenErr != nil {
			return reopenErr
		}
		if !again {
			return err
		}
	}
}

func (s *supply) needed(ctx context.Context, ready func(reference string)) error {
	items, refused := s.admit()
	items = s.available(ctx, s.importer, items, refused)
	control, _, err := s.split(ctx, s.importer, items, refused)
	if err != nil {
		return err
	}
	for _, wanted := range control {
		if wanted.item != nil {
			if err := s.insist(ctx, *wanted.item); err != nil {
				return err
			}
		}
		for _, ref := range wanted.refs {
			ready(ref)
		}
	}
	return nil
}

// reopenChanged reads the bundles again that are not those that were opened; cause is what
// failed meanwhile.
func (s *supply) reopenChanged(ctx context.Context, cause error) (again bool, err error) {
	var paths []string
	for _, file := range s.folder.Files {
		if file.Archive == nil {
			continue
		}
		if changed := s.changed(file.Archive); changed != nil {
			s.log.Error("a bundle changed while it was being read", "error", changed, "failed", cause)
			paths = append(paths, file.Path)
		}
	}
	for _, path := range paths {
		if err := s.reopen(ctx, path); err != nil {
			return true, err
		}
	}
	return len(paths) > 0, nil
}

// insist imports an image, and waits while the disk is full.
func (s *supply) insist(ctx context.Context, item imageimport.Item) error {
	for {
		result, err := s.importer.Import(ctx, item)
		s.count(result)
		var space *imageimport.SpaceError
		if !errors.As(err, &space) {
			return err
		}
		s.fullDisk(space)
		if err := s.room(ctx); err != nil {
			return err
		}
	}
}

func (s *supply) count(r imageimport.Result) {
	s.total.Add(r)
	s.line.Read(r.Blobs, r.Bytes)
}

// fullDisk says it once for as long as it is.
func (s *supply) fullDisk(space *imageimport.SpaceError) {
	if s.waiting == nil {
		s.log.Error("images are not imported; the import goes on by itself when there is room", "error", space)
	}
	s.waiting = space
}

// spacePause is how often a full disk is looked at.
const spacePause = 2 * time.Second

// room waits until it is worth trying again.
func (s *supply) room(ctx context.Context) error {
	for !s.hasRoom() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(spacePause):
		}
	}
	return nil
}

// hasRoom tells whether there is as much room as was asked for; where nobody can say how
// much that is, more than there was.
func (s *supply) hasRoom() bool {
	if s.waiting == nil {
		return true
	}
	free, err := imageimport.Free(s.waiting.Dir)
	if err != nil {
		return true
	}
	need := s.waiting.Need
	if need == 0 {
		need = s.waiting.Free + imageimport.Reserve
	}
	if free < need {
		return false
	}
	s.log.Info("there is room on the disk again: the import goes on", "folder", s.waiting.Dir, "free MB", free/1e6)
	s.waiting = nil
	return true
}

// fill brings in all that bundles offer and takes pins back that nothing asks for any
// more. Images that cannot be imported are logged, once. A full disk is no error: it is
// remembered in waiting. An error is containerd's.
func (s *supply) fill(ctx context.Context) error {
	items, refused := s.admit()
	items = s.available(ctx, s.importer, items, refused)
	var due []imageimport.Item
	for _, item := range items {
		if s.broken[offered{item.Archive, item.Admitted.Name()}] == nil {
			due = append(due, item)
		}
	}
	result, err := s.importer.Import(ctx, s.inOrder(due)...)
	s.count(result)
	var failures imageimport.Failures
	var space *imageimport.SpaceError
	switch {
	case errors.As(err, &space):
		s.fullDisk(space)
		err = nil
	case errors.As(err, &failures):
		for _, f := range failures {
			s.failed(f)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	sources, err := s.dockerArchives(ctx)
	if err != nil {
		return err
	}
	s.owned = map[string]bool{}
	for _, item := range items {
		for _, name := range s.importer.Names(item) {
			s.owned[name] = true
		}
	}
	if s.waiting != nil {
		return nil // pins of what may be needed stay
	}
	unpinned, err := s.importer.Unpin(ctx, imageimport.Keep{
		Items: items, Names: append(s.systemNames(s.importer), s.listed()...), Sources: sources,
	})
	if err != nil {
		s.log.Warn("pins of removed bundles stay", "error", err)
	}
	if len(unpinned) > 0 {
		s.log.Info("images that no bundle has any more are unpinned: the kubelet may remove them", "images", unpinned)
	}
	if idle := s.total.Images+s.total.Blobs+len(unpinned) == 0; idle && s.told {
		return nil
	}
	s.told = true
	s.log.Info("images are ready",
		"imported", s.total.Images, "present", s.total.Present, "blobs", s.total.Blobs, "bytes", s.total.Bytes,
		"refused", len(refused), "failed", len(s.broken), "unpinned", len(unpinned), "seconds", time.Since(s.started).Seconds())
	return nil
}

// failed says why an image is not imported, and remembers it.
func (s *supply) failed(f imageimport.Failure) {
	err := f.Err
	if changed := s.changed(f.Item.Archive); changed != nil {
		err = fmt.Errorf("%w: %w", changed, err)
	}
	s.log.Error("an image is not imported", "image", f.Item.Admitted.Name(), "file", f.Item.Archive.Path(), "error", err)
	s.fails(offered{f.Item.Archive, f.Item.Admitted.Name()}, err)
}

// dockerArchives imports the legacy archives, and gives what their images are known by.
func (s *supply) dockerArchives(ctx context.Context) (sources []string, err error) {
	for _, file := range s.folder.Files {
		if file.Archive == nil || file.Archive.Format() != airgap.FormatDockerArchive {
			continue
		}
		if source, err := imageimport.Source(file.Path); err == nil {
			sources = append(sources, source)
		}
		key := offered{archive: file.Archive}
		if s.broken[key] != nil {
			continue
		}
		err := s.unverifiable(file)
		if err == nil {
			var result imageimport.Result
			result, err = s.importer.ImportDockerArchive(ctx, file.Archive)
			s.count(result)
		}
		var space *imageimport.SpaceError
		switch {
		case ctx.Err() != nil:
			return sources, ctx.Err()
		case errors.As(err, &space):
			s.fullDisk(space)
		case err != nil:
			s.log.Error("images are not imported", "file", file.Path, "error", err)
			s.fails(key, err)
		}
	}
	return sources, nil
}

// changed says that the file of an open bundle is not the one that was opened.
func (s *supply) changed(archive *airgap.Archive) error {
	for _, file := range s.folder.Files {
		if file.Archive != archive || file.Info == nil {
			continue
		}
		now, err := os.Stat(file.Path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("bundle %s was removed while it was being read", file.Path)
		case err == nil && watch.Of(now) != watch.Of(file.Info):
			return fmt.Errorf("bundle %s was replaced or written to while it was being read: the new one is read next", file.Path)
		}
	}
	return nil
}

// reopen reads a bundle's index again when its file stands still.
func (s *supply) reopen(ctx context.Context, path string) error {
	if err := watch.Still(ctx, path); err != nil {
		return err
	}
	file := scan.OpenFile(path)
	if file.Err != nil {
		s.log.Error("a bundle cannot be read and is passed over", "file", path, "error", file.Err)
	}
	err := s.folder.Put(file)
	s.forget()
	return err
}

// progressPause is how often the log says how far a long import is.
const progressPause = 5 * time.Second

// progress tells the log how far an import is, a line every few seconds, and whoever
// asks for the node's status.
func progress(log *slog.Logger, status func(string)) func(imageimport.Progress) {
	return progressEvery(log, status, progressPause)
}

func progressEvery(log *slog.Logger, status func(string), pause time.Duration) func(imageimport.Progress) {
	var started, last time.Time
	var done int64
	return func(p imageimport.Progress) {
		now := time.Now()
		status(fmt.Sprintf("importing images: %d of %d MB", p.Done/1e6, p.Total/1e6))
		if p.Started != started {
			started, last, done = p.Started, now, p.Done
			return
		}
		if now.Sub(last) < pause {
			return
		}
		rate := float64(p.Done-done) / 1e6 / now.Sub(last).Seconds()
		log.Info("importing images", "image", p.Image,
			"images", fmt.Sprintf("%d of %d", p.Images, p.Of),
			"read", fmt.Sprintf("%d of %d MB", p.Done/1e6, p.Total/1e6),
			"rate", fmt.Sprintf("%.0f MB/s", rate))
		last, done = now, p.Done
	}
}

package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

// TestChanged: which file is open and which is there are told apart.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	path := w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	folder, err := scan.Open(w.config.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	s := &supply{Content: &Content{folder: folder}}
	archive := folder.Files[0].Archive
	if err := s.changed(archive); err != nil {
		t.Error(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.tar")
	copyTo(t, path, other)
	if err := os.Chtimes(other, before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if err := s.changed(archive); err == nil || !strings.Contains(err.Error(), path+" was replaced") {
		t.Errorf("the same bytes, size and time in another file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.changed(archive); err == nil || !strings.Contains(err.Error(), path+" was removed") {
		t.Error(err)
	}
}

// TestHasRoom: a full disk is said once, and so is that it is not any more.
func TestHasRoom(t *testing.T) {
	var log bytes.Buffer
	s := &supply{Content: &Content{log: slog.New(slog.NewTextHandler(&log, nil))}}
	if !s.hasRoom() {
		t.Error("nothing is waited for")
	}
	dir := t.TempDir()
	for range 3 {
		s.fullDisk(&imageimport.SpaceError{Dir: dir, Need: 1 << 62, Free: 5e6})
		if s.hasRoom() {
			t.Error("there is room for anything")
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), dir) {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	s.waiting.Need = 1
	if !s.hasRoom() || s.waiting != nil || !strings.Contains(log.String(), "there is room on the disk again") {
		t.Errorf("%+v\n%s", s.waiting, log.String())
	}
}

// TestProgressLines: an import that is quick says nothing; a long one says a line now and
// then.
func TestProgressLines(t *testing.T) {
	var log bytes.Buffer
	var status string
	tell := progress(slog.New(slog.NewTextHandler(&log, nil)), func(s string) { status = s })
	began := time.Now()
	tell(imageimport.Progress{Started: began, Image: "a", Done: 0, Total: 2e9, Of: 3})
	tell(imageimport.Progress{Started: began, Image: "a", Done: 5e8, Total: 2e9, Of: 3})
	if log.Len() > 0 || status != "importing images: 500 of 2000 MB" {
		t.Errorf("%q, %s", status, log.String())
	}
	short := progressEvery(slog.New(slog.NewTextHandler(&log, nil)), func(string) {}, 5*time.Millisecond)
	short(imageimport.Progress{Started: began, Image: "a", Total: 2e9, Of: 3})
	time.Sleep(6 * time.Millisecond)
	short(imageimport.Progress{Started: began, Image: "example.com/b:1", Done: 1e9, Total: 2e9, Images: 1, Of: 3})
	time.Sleep(6 * time.Millisecond)
	short(imageimport.Progress{Started: time.Now(), Image: "another import", Of: 1})
	if strings.Contains(log.String(), "another import") {
		t.Errorf("an import that has just begun: %s", log.String())
	}
	for _, want := range []string{"image=example.com/b:1", `images="1 of 3"`, `read="1000 of 2000 MB"`, "MB/s"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, log.String())
		}
	}
}

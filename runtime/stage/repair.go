package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/rancher/rke2/runtime/durable"
)

// errUnlike: the image has not what the record says it has.
var errUnlike = errors.New("the record is not of this image")

// repair puts right what has drifted of the root dir, which is a folder, and
// returns what that was. What is wanted is first all there and verified, in a
// folder beside; then each file takes its place by a rename, so that programs
// which run go on with what they have open.
func repair(ctx context.Context, dir string, image Image, drifted []Drift) ([]Drift, error) {
	err := inTemporary(filepath.Dir(dir), func(temporary string) error {
		recorded, err := readList(dir)
		var lost *DriftError
		switch {
		case errors.As(err, &lost), err == nil && recorded.Image != image.Digest().String():
			err = errUnlike
		case err == nil:
			err = fetch(ctx, temporary, image, recorded, drifted)
		}
		unlike := errors.Is(err, errUnlike)
		if unlike {
			recorded, drifted, err = fetchAll(ctx, temporary, dir, image, drifted)
		}
		if err != nil {
			return err
		}
		if err := mend(dir, temporary, recorded, drifted); err != nil {
			return target(err)
		}
		if unlike {
			if err := writeList(dir, recorded); err != nil {
				return target(err)
			}
		}
		for _, sub := range append([]string{"."}, folders[:]...) {
			if err := durable.SyncDir(filepath.Join(dir, sub)); err != nil {
				return target(err)
			}
		}
		left, err := recorded.check(dir)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("it did not last: %w", &DriftError{Dir: dir, Files: left})
		}
		return err
	})
	return drifted, err
}

// fetch unpacks the drifted files alone, from the layers that have them.
func fetch(ctx context.Context, temporary string, image Image, recorded list, drifted []Drift) error {
	wanted := map[string]bool{}
	var layers []int
	for _, d := range drifted {
		if d.fix != fixContent {
			continue
		}
		wanted[d.Path] = true
		n := recorded.Files[d.Path].Layer
		if n < 0 || n >= len(image.Layers) {
			return errUnlike
		}
		layers = append(layers, n)
	}
	if len(wanted) == 0 {
		return nil
	}
	x := extractor{root: temporary, left: maxUnpacked, files: map[string]fileRecord{}, only: wanted}
	if err := x.makeFolders(); err != nil {
		return err
	}
	slices.Sort(layers)
	for _, n := range slices.Compact(layers) {
		if err := x.layer(ctx, n, image.Layers[n]); err != nil {
			return err
		}
	}
	for path := range wanted {
		if x.files[path] != recorded.Files[path] {
			return errUnlike
		}
	}
	return nil
}

// fetchAll unpacks the whole image, because the record of the root is lost, and
// tells what the root has drifted from it. was is what was known to be wrong.
func fetchAll(ctx context.Context, temporary, dir string, image Image, was []Drift) (list, []Drift, error) {
	for _, sub := range folders {
		if err := os.RemoveAll(filepath.Join(temporary, sub)); err != nil {
			return list{}, nil, target(err)
		}
	}
	recorded, err := unpack(ctx, temporary, image)
	if err != nil {
		return list{}, nil, err
	}
	drifted, err := recorded.check(dir)
	for _, d := range was {
		if d.fix == fixList {
			drifted = append(drifted, d)
		}
	}
	return recorded, drifted, err
}

// mend changes what is in dir; what is wanted of the image is in temporary, and
// what is taken away goes there.
func mend(dir, temporary string, recorded list, drifted []Drift) error {
	aside := 0
	away := func(path string) error {
		aside++
		err := os.Rename(path, filepath.Join(temporary, "aside-"+strconv.Itoa(aside)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, d := range drifted {
		path := filepath.Join(dir, filepath.FromSlash(d.Path))
		var err error
		switch d.fix {
		case fixFolder:
			if err = away(path); err == nil {
				err = makeFolder(path)
			}
		case fixExtra:
			err = away(path)
		case fixMode:
			mode := folderMode
			if r, ok := recorded.Files[d.Path]; ok {
				mode = r.Mode
			}
			// The owner first: changing it clears mode bits.
			err = errors.Join(os.Lchown(path, os.Geteuid(), os.Getegid()), os.Chmod(path, mode))
		case fixContent:
			if info, gone := os.Lstat(path); gone == nil && info.IsDir() {
				err = away(path)
			}
			if err == nil {
				err = os.Rename(filepath.Join(temporary, filepath.FromSlash(d.Path)), path)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func makeFolder(path string) error {
	if err := os.Mkdir(path, folderMode); err != nil {
		return err
	}
	return os.Chmod(path, folderMode) // whatever the umask
}

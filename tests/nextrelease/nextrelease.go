// Package nextrelease makes another release of this product for tests of upgrades: the
// same sources under the next release number, built by the product's own build tool.
// What was compiled before is taken from the build's cache, so that the Kubernetes
// binaries, which name the release in their version, are all that is linked again.
package nextrelease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/images"
)

// Set is the one that the release is made of; what others have is left out.
const Set = "core"

// Release is a release in a folder of products.
type Release struct {
	images.Release
	Dir    string // rke2, oci/, release.json, the bundle
	Binary string // the node binary
	Bundle string // the core images
}

// Open describes the release in a folder that `make airgap` wrote.
func Open(dir string) (Release, error) {
	r := Release{Dir: dir, Binary: filepath.Join(dir, "rke2"), Bundle: filepath.Join(dir, "rke2-images-"+Set+".linux-"+runtime.GOARCH+".tar")}
	raw, err := os.ReadFile(filepath.Join(dir, "release.json"))
	if err != nil {
		return r, err
	}
	r.Release, err = images.ParseRelease(raw)
	return r, err
}

// Make makes the release after current in dir. sources is the folder that has images/,
// charts/ and Dockerfile.runtime; current's folder has the build tool, rke2-build.
func Make(ctx context.Context, sources string, current Release, dir string) (Release, error) {
	next := Release{Dir: filepath.Join(dir, "dist")}
	fail := func(err error) (Release, error) { return next, fmt.Errorf("making the next release: %w", err) }
	declared := filepath.Join(dir, "images")
	if err := declare(sources, dir); err != nil {
		return fail(err)
	}
	if err := sameKey(current.Dir, next.Dir); err != nil {
		return fail(err)
	}
	build := filepath.Join(current.Dir, "rke2-build")
	if err := run(ctx, build, "all", "--images", declared, "--dist", next.Dir, "--platform", "linux/"+runtime.GOARCH); err != nil {
		return fail(err)
	}
	carried, err := os.ReadFile(filepath.Join(current.Dir, "release.json"))
	if err != nil {
		return fail(err)
	}
	made, err := os.ReadFile(filepath.Join(next.Dir, "release.json"))
	if err != nil {
		return fail(err)
	}
	binary := filepath.Join(next.Dir, "rke2")
	if err := embed(current.Binary, carried, made, binary); err != nil {
		return fail(err)
	}
	if err := run(ctx, binary, "bundle", "airgap", "--layout", filepath.Join(next.Dir, "oci"), "--set", Set,
		"--platform", "linux/"+runtime.GOARCH, "--output-dir", next.Dir); err != nil {
		return fail(err)
	}
	return Open(next.Dir)
}

// declare copies the declarations of the images in Set and of their charts, with the next
// release number.
func declare(sources, dir string) error {
	if err := os.CopyFS(filepath.Join(dir, "images"), os.DirFS(filepath.Join(sources, "images"))); err != nil {
		return err
	}
	dockerfile, err := os.ReadFile(filepath.Join(sources, "Dockerfile.runtime"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile.runtime"), dockerfile, 0o644); err != nil {
		return err
	}
	product := filepath.Join(dir, "images", "product.yaml")
	raw, err := os.ReadFile(product)
	if err != nil {
		return err
	}
	if raw, err = bump(raw); err != nil {
		return fmt.Errorf("%s: %w", product, err)
	}
	if err := os.WriteFile(product, raw, 0o644); err != nil {
		return err
	}
	if err := leaveOut(filepath.Join(dir, "images")); err != nil {
		return err
	}
	return copyCharts(filepath.Join(sources, "charts"), filepath.Join(dir, "charts"))
}

// copyCharts copies the charts but for those of networks and ingress controllers, whose
// images are of other sets.
func copyCharts(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(from, "*", images.PackageFile))
	if err != nil {
		return err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var chart map[string]any
		if err := yaml.Unmarshal(raw, &chart); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if chart["cni"] != nil || chart["ingress-controller"] != nil {
			continue
		}
		folder := filepath.Dir(file)
		if err := os.CopyFS(filepath.Join(to, filepath.Base(folder)), os.DirFS(folder)); err != nil {
			return err
		}
	}
	return nil
}

// sameKey has the next release signed by the key that made this one, as releases are,
// where that is a development key; else COSIGN_KEY says so.
func sameKey(from, to string) error {
	const name = "development.key"
	key, err := os.ReadFile(filepath.Join(from, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), key, 0o600)
}

var releaseLine = regexp.MustCompile(`(?m)^(release: .*?)(\d+)$`)

func bump(product []byte) ([]byte, error) {
	at := releaseLine.FindSubmatchIndex(product)
	if at == nil {
		return nil, errors.New("no line release: …NUMBER")
	}
	number, err := strconv.Atoi(string(product[at[4]:at[5]]))
	if err != nil {
		return nil, err
	}
	return slices.Concat(product[:at[4]], []byte(strconv.Itoa(number+1)), product[at[5]:]), nil
}

// leaveOut removes the declarations of images of other sets.
func leaveOut(declared string) error {
	files, err := filepath.Glob(filepath.Join(declared, "*", "image.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var component struct {
			Image struct{ Sets []string }
		}
		if err := yaml.Unmarshal(raw, &component); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if len(component.Image.Sets) > 0 && !slices.Contains(component.Image.Sets, Set) {
			if err := os.RemoveAll(filepath.Dir(file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// embed writes a node binary that carries another release, in the place of the one that
// it was linked with: linking it anew would take a minute and change nothing else that
// runs. The bytes must stay as many, so the JSON loses its spaces and is filled up with
// them.
func embed(binary string, carried, made []byte, to string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	if n := bytes.Count(program, carried); n != 1 {
		return fmt.Errorf("%s carries the release.json beside it %d times, not once: was it built with it?", binary, n)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, made); err != nil {
		return fmt.Errorf("release.json: %w", err)
	}
	room := len(carried) - compact.Len()
	if room < 0 {
		return fmt.Errorf("the next release.json is %d bytes longer than this one", -room)
	}
	fresh := append(compact.Bytes(), strings.Repeat(" ", room)...)
	return os.WriteFile(to, bytes.Replace(program, carried, fresh, 1), 0o755)
}

// Sources is the folder, here or above, that has the declarations.
func Sources() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "images", "product.yaml")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not in the source folder: the declarations in images/ are needed")
		}
		dir = up
	}
}

func run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

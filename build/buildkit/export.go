package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/rancher/rke2/build/layout"
)

// recipeName marks a folder that Export wrote, and says what is in it.
const recipeName = "recipe.json"

// Buildx is what `docker buildx build` has to be told to build an image from files that
// are on disk.
type Buildx struct {
	Dockerfile string            `json:"dockerfile"`
	Context    string            `json:"context"` // folder
	Platform   string            `json:"platform"`
	Tag        string            `json:"tag,omitempty"`
	Args       map[string]string `json:"args"`
	Contexts   map[string]string `json:"contexts"` // folders, by name
	Output     string            `json:"output"`   // file
	Network    bool              `json:"network"`  // the Dockerfile says RUN --network=host
	Argv       []string          `json:"argv"`
}

// Export writes the contexts of an image, and of the Dockerfile's folder what it needs,
// to folders in dir, and says how to build from them. dir is replaced as a whole if an
// earlier export wrote it; any other folder that isn't empty is left alone. tag is the
// image's reference, output the OCI archive that buildx is to write.
//
// Files are dated after the epoch by their content, and BuildKit's rewrite-timestamp
// turns all later dates into the epoch: a builder that lives on takes files of the same
// size and date for the same, and would go on with those of an earlier export.
func Export(ctx context.Context, r Request, dir, tag, output string) (Buildx, error) {
	b := &Builder{identity: "none"}
	j, err := b.plan(ctx, r)
	if err != nil {
		return Buildx{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Buildx{}, fmt.Errorf("exporting build contexts: %w", err)
	}
	if output, err = filepath.Abs(output); err != nil {
		return Buildx{}, fmt.Errorf("exporting build contexts: %w", err)
	}
	x := Buildx{
		Dockerfile: filepath.Join(dir, j.file.base()), Context: filepath.Join(dir, "context"), Platform: j.platform.String(), Tag: tag,
		Args: j.args, Contexts: map[string]string{}, Output: output, Network: j.file.network,
	}
	for name := range j.contexts {
		x.Contexts[name] = filepath.Join(dir, "contexts", name)
	}
	x.Argv = x.argv()
	if err := j.export(ctx, dir, x); err != nil {
		return Buildx{}, fmt.Errorf("exporting build contexts to %s: %w", dir, err)
	}
	return x, nil
}

func (j *job) export(ctx context.Context, dir string, x Buildx) (err error) {
	if err := replaceable(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.WriteFile(filepath.Join(tmp, j.file.base()), j.file.data, 0o644); err != nil {
		return err
	}
	if err := j.local.write(ctx, filepath.Join(tmp, "context")); err != nil {
		return err
	}
	for name, t := range j.contexts {
		if err := t.write(ctx, filepath.Join(tmp, "contexts", name)); err != nil {
			return fmt.Errorf("context %s: %w", name, err)
		}
	}
	data, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	if err := layout.WriteFile(filepath.Join(tmp, recipeName), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	old := tmp + ".old"
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// replaceable tells whether dir is missing, empty, or an earlier export.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, recipeName)); err != nil {
		return fmt.Errorf("there are other files in it (no %s): choose another folder", recipeName)
	}
	return nil
}

// write makes the tree's files in a new folder.
func (t *tree) write(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, n := range t.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(n.file.Path))
		var err error
		switch {
		case n.file.Dir:
			err = os.Mkdir(to, 0o700) // its mode follows: it may forbid to write into it
		case n.file.Link != "":
			err = os.Symlink(n.file.Link, to)
		default:
			err = t.writeFile(n, to)
		}
		if err != nil {
			return err
		}
	}
	for i := len(t.nodes) - 1; i >= 0; i-- {
		if n := t.nodes[i]; n.file.Dir {
			to := filepath.Join(dir, filepath.FromSlash(n.file.Path))
			if err := errors.Join(os.Chmod(to, n.file.Mode.Perm()), os.Chtimes(to, t.epoch, t.epoch)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tree) writeFile(n node, to string) (err error) {
	r, err := t.Open(n.file.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(n.file.Mode.Perm()); err != nil {
		return err
	}
	at := t.epoch.Add(age(n.file.SHA256))
	return os.Chtimes(to, at, at)
}

// age is a time of up to ten years that depends on a file's content.
func age(content string) time.Duration {
	sum := sha256.Sum256([]byte(content))
	const years = 10 * 365 * 24 * time.Hour
	return time.Second + time.Duration(binary.BigEndian.Uint64(sum[:])%uint64(years/time.Second))*time.Second
}

// argv is the command. What is not said here has no influence on the image.
func (x Buildx) argv() []string {
	out := []string{"docker", "buildx", "build", "--file", x.Dockerfile, "--platform", x.Platform}
	if x.Tag != "" {
		out = append(out, "--tag", x.Tag)
	}
	for _, k := range sorted(x.Args) {
		out = append(out, "--build-arg", k+"="+x.Args[k])
	}
	for _, k := range sorted(x.Contexts) {
		out = append(out, "--build-context", k+"="+x.Contexts[k])
	}
	if x.Network {
		out = append(out, "--allow", networkHost)
	}
	attrs := []string{"type=oci", "dest=" + x.Output}
	for _, k := range sorted(exported) {
		attrs = append(attrs, k+"="+exported[k])
	}
	// buildx reads a line of CSV.
	var line strings.Builder
	w := csv.NewWriter(&line)
	_ = w.Write(attrs) // a Builder takes everything
	w.Flush()
	// What buildx adds by itself would make the manifest another one.
	return append(out, "--network", "none", "--provenance=false", "--sbom=false", "--output", strings.TrimSuffix(line.String(), "\n"), x.Context)
}

// Shell is the command for a POSIX shell, an option a line.
func (x Buildx) Shell() string {
	var b strings.Builder
	for i, word := range x.Argv {
		switch {
		case i == 0:
		case strings.HasPrefix(word, "--") || i == len(x.Argv)-1:
			b.WriteString(" \\\n  ")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(quote(word))
	}
	b.WriteByte('\n')
	return b.String()
}

func quote(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func sorted(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

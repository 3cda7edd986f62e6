package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

const (
	cacheKind = "buildkit"
	// scheme is part of every key: raise it when this package asks for, or keeps,
	// something else.
	scheme = 1
)

// exported is how BuildKit is asked to write an image: no time later than the epoch,
// every layer compressed anew. It compresses twice, before and after it rewrites times,
// so the level is zstd's own default: level 9 takes five times as long for a tenth less.
var exported = map[string]string{
	"rewrite-timestamp": "true",
	"compression":       "zstd",
	"compression-level": "3",
	"force-compression": "true",
	"oci-mediatypes":    "true",
}

// Options are what a builder works with.
type Options struct {
	Cache *cache.Cache
	// Addr is where a daemon listens: unix://… or tcp://…. If it is empty, one is
	// started when the first image has to be built, and Close stops it.
	Addr string
	// Programs gives what a daemon is started from. It is called at most once, and only
	// if Addr is empty.
	Programs func(context.Context) (Programs, error)
	Log      io.Writer // gets BuildKit's account of each step; may be nil
}

// Request is what an image is made of.
type Request struct {
	Dockerfile string // path
	Args       map[string]string
	Contexts   map[string][]layer.File
	Local      image.Context // what COPY without --from copies from; nil: nothing
	Platform   v1.Platform
	Epoch      time.Time // SOURCE_DATE_EPOCH
}

// Builder makes images with BuildKit. It may be used from several goroutines.
type Builder struct {
	o Options

	mu       sync.Mutex
	programs *Programs
	identity string           // of the daemon, for cache keys
	daemons  map[bool]*Daemon // that were started: without and with a network
	client   *client.Client   // of the daemon at Addr
	closed   bool
}

// New makes a builder; nothing is started yet.
func New(o Options) *Builder { return &Builder{o: o, daemons: map[bool]*Daemon{}} }

// Close ends what was started. An error says what could not be taken away.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var errs []error
	for _, d := range b.daemons {
		errs = append(errs, d.Stop())
	}
	if b.client != nil {
		errs = append(errs, b.client.Close())
	}
	b.daemons, b.client = nil, nil
	return errors.Join(errs...)
}

// Build makes the image, or finds it in the cache. A failed RUN has the end of what it
// said in the error; every error that comes from a line of the Dockerfile names it.
func (b *Builder) Build(ctx context.Context, r Request) (image.Image, error) {
	j, err := b.plan(ctx, r)
	if err != nil {
		return image.Image{}, err
	}
	for {
		dir, hit, err := b.o.Cache.Fill(cacheKind, j.key, func(dir string) error { return b.solve(ctx, j, dir) })
		if err != nil {
			return image.Image{}, err
		}
		img, err := j.load(dir, hit)
		if err == nil {
			return img, nil
		}
		if !hit {
			return image.Image{}, err
		}
		if err := b.o.Cache.Drop(cacheKind, j.key); err != nil {
			return image.Image{}, err
		}
	}
}

// job is a request that has been looked into.
type job struct {
	key      string
	file     *dockerfile
	args     map[string]string
	contexts map[string]*tree
	local    *tree
	digests  map[string]string // of contexts, and of local under ""
	platform v1.Platform
	epoch    time.Time
}

func (b *Builder) plan(ctx context.Context, r Request) (*job, error) {
	file, err := read(r.Dockerfile, r.Args)
	if err != nil {
		return nil, err
	}
	j := &job{
		file: file, args: map[string]string{}, contexts: map[string]*tree{}, digests: map[string]string{},
		platform: r.Platform, epoch: r.Epoch.UTC().Truncate(time.Second),
	}
	for k, v := range r.Args {
		j.args[k] = v
	}
	j.args["SOURCE_DATE_EPOCH"] = strconv.FormatInt(j.epoch.Unix(), 10)
	for _, u := range file.contexts {
		files, ok := r.Contexts[u.name]
		if !ok {
			return nil, file.errorf(u.line, "%s: there is no such context, and no image is pulled; known are: %s", u.what, names(r.Contexts))
		}
		t, err := newTree(files, j.epoch)
		if err != nil {
			return nil, file.errorf(u.line, "%s: %w", u.what, err)
		}
		j.contexts[u.name] = t
		if j.digests[u.name], err = t.digest(); err != nil {
			return nil, err
		}
	}
	j.local = &tree{epoch: j.epoch}
	if file.local > 0 && r.Local != nil {
		files, err := r.Local.List("")
		if err == nil {
			j.local, err = newTree(files, j.epoch)
		}
		if err != nil {
			return nil, file.errorf(file.local, "the Dockerfile's folder: %w", err)
		}
		if j.digests[""], err = j.local.digest(); err != nil {
			return nil, err
		}
	}
	identity, err := b.identify(ctx)
	if err != nil {
		return nil, err
	}
	j.key, err = cache.Key(struct {
		Scheme     int
		Daemon     string
		Export     map[string]string
		Name       string
		Dockerfile []byte
		Args       map[string]string
		Contexts   map[string]string
		Platform   string
		Epoch      int64
	}{scheme, identity, exported, file.base(), file.data, j.args, j.digests, r.Platform.String(), j.epoch.Unix()})
	return j, err
}

func names(contexts map[string][]layer.File) string {
	var out []string
	for n := range contexts {
		out = append(out, n)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// identify says which BuildKit this is, without starting one.
func (b *Builder) identify(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.identity != "" {
		return b.identity, nil
	}
	if b.o.Addr != "" {
		c, err := b.connect(ctx)
		if err != nil {
			return "", err
		}
		info, err := c.Info(ctx)
		if err != nil {
			return "", fmt.Errorf("asking BuildKit at %s for its version: %w", b.o.Addr, err)
		}
		b.identity = info.BuildkitVersion.Package + " " + info.BuildkitVersion.Version + " " + info.BuildkitVersion.Revision
		return b.identity, nil
	}
	if b.o.Programs == nil {
		return "", errors.New("no address of a BuildKit daemon, and no programs to start one from")
	}
	p, err := b.o.Programs(ctx)
	if err != nil {
		return "", fmt.Errorf("finding BuildKit: %w", err)
	}
	sums := make([]string, 0, 2)
	for _, name := range []string{p.Buildkitd, p.Runc} {
		sum, err := cache.Sum(name)
		if err != nil {
			return "", fmt.Errorf("finding BuildKit: %w", err)
		}
		sums = append(sums, sum)
	}
	b.programs, b.identity = &p, strings.Join(sums, " ")
	return b.identity, nil
}

// connect gives the client of the daemon at Addr. The lock is held.
func (b *Builder) connect(ctx context.Context) (*client.Client, error) {
	if b.closed {
		return nil, errors.New("the builder is closed")
	}
	if b.client != nil {
		return b.client, nil
	}
	c, err := client.New(ctx, b.o.Addr)
	if err == nil {
		// New doesn't dial.
		if _, err = c.ListWorkers(ctx); err != nil {
			_ = c.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to BuildKit at %s (--buildkit-addr, BUILDKIT_HOST; without it one is started): %w", b.o.Addr, err)
	}
	b.client = c
	return c, nil
}

// running gives the client of a daemon, starting one if need be.
func (b *Builder) running(ctx context.Context, network bool) (*client.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.o.Addr != "" {
		return b.connect(ctx)
	}
	if b.closed {
		return nil, errors.New("the builder is closed")
	}
	if d := b.daemons[network]; d != nil && d.hasEnded() {
		delete(b.daemons, network)
		if err := d.Stop(); err != nil {
			return nil, err
		}
	}
	if b.daemons[network] == nil {
		d, err := Start(ctx, DaemonOptions{Programs: *b.programs, Dir: filepath.Join(b.o.Cache.Dir(), "buildkitd"), Network: network})
		if err != nil {
			return nil, err
		}
		b.daemons[network] = d
	}
	return b.daemons[network].Client(), nil
}

// mounts are what BuildKit may ask for, by name. The name of a context has its digest in
// it, because BuildKit keeps what it got under a name, and next time takes only files
// whose size or date is another: here all have one date. fail is called when a file can't
// be read.
func (j *job) mounts(fail func(error)) (mounts map[string]fsutil.FS, attrs map[string]string) {
	mounts = map[string]fsutil.FS{
		"dockerfile": oneFile(j.file.base(), j.file.data, j.epoch),
		"context":    guarded{j.local, fail},
	}
	attrs = map[string]string{
		"filename": j.file.base(),
		"platform": j.platform.String(),
		// RUN has no network, unless it says --network=host.
		"force-network-mode": "none",
	}
	for k, v := range j.args {
		attrs["build-arg:"+k] = v
	}
	for name, t := range j.contexts {
		local := name + "-" + j.digests[name][:16]
		mounts[local] = guarded{t, func(err error) { fail(fmt.Errorf("context %s: %w", name, err)) }}
		attrs["context:"+name] = "local:" + local
	}
	return mounts, attrs
}

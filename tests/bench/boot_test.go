//go:build linux

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	sealednode "github.com/rancher/rke2/tests/sealed/node"
)

// TestMain lets sealed hosts run this program as their keeper.
func TestMain(m *testing.M) { os.Exit(sealed.Guard(m.Run)) }

const (
	bootLimit = 6 * time.Minute
	stopLimit = time.Minute
)

// BenchmarkBoot starts a server on a sealed host from the core bundle (about 250 MB): a
// node that never ran (cold), the same one after a power cut (reboot; the disk and the
// machine's page cache are kept), and rke2 alone, ended and started beside its pods
// (restart). Each is timed from the process's start to the node's Ready condition, by the
// word of a kubelet of that start.
//
// The peer is tests/bench/peer: the same binaries and images, in the way of K3s's preload
// importer and of RKE2's static pods, which says what exactly it is. It reads them from
// .tar.zst archives of the form that RKE2 publishes, made of ours before the clock runs
// (docker-archive, layers not compressed in it, zstd's default level around it).
func BenchmarkBoot(b *testing.B) { benchmarkBoot(b, 0) }

// BenchmarkBoot2GB is BenchmarkBoot beside 1.75 GB of an operator's bundles: images whose
// layers do not compress.
func BenchmarkBoot2GB(b *testing.B) { benchmarkBoot(b, 28) }

// benchmarkBoot boots beside so many extra images of 64 MB.
func benchmarkBoot(b *testing.B, extra int) {
	if err := sealed.Supported(); err != nil {
		b.Skip(err)
	}
	p, err := sealednode.FindProducts()
	if err != nil {
		b.Fatal(err)
	}
	plugins := b.TempDir()
	if err := p.Plugins(b.Context(), plugins); err != nil {
		b.Fatal(err)
	}
	bundles := []string{p.Bundle}
	if extra > 0 {
		bundles = append(bundles, bulk(b, extra))
	}
	archives := make([]string, len(bundles))
	for i, bundle := range bundles {
		archives[i] = dockerArchive(b, bundle)
	}
	ours := sealednode.Options{Name: "ours", Binary: p.Binary, Bundles: bundles, Plugins: plugins}
	peer := sealednode.Options{Name: "peer", Binary: peerProgram(b, p), Bundles: archives, Plugins: plugins}
	var a, z boots
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			a = a.plus(bootThrice(b, ours))
			z = z.plus(bootThrice(b, peer))
		} else {
			z = z.plus(bootThrice(b, peer))
			a = a.plus(bootThrice(b, ours))
		}
	}
	for _, c := range []struct {
		what       string
		ours, peer time.Duration
	}{{"cold", a.cold, z.cold}, {"reboot", a.reboot, z.reboot}, {"restart", a.restart, z.restart}} {
		b.ReportMetric(c.ours.Seconds()/c.peer.Seconds(), c.what+"-ratio")
		b.ReportMetric(c.ours.Seconds()/float64(b.N), "ours-"+c.what+"-s")
		b.ReportMetric(c.peer.Seconds()/float64(b.N), "peer-"+c.what+"-s")
	}
	b.ReportMetric(a.pods.Seconds()/float64(b.N), "ours-reboot-pods-s")
	b.ReportMetric(z.pods.Seconds()/float64(b.N), "peer-reboot-pods-s")
	b.ReportMetric(0, "ns/op")
}

// boots are the times to Ready, and that to all static pods after the reboot.
type boots struct{ cold, reboot, pods, restart time.Duration }

func (s boots) plus(o boots) boots {
	return boots{s.cold + o.cold, s.reboot + o.reboot, s.pods + o.pods, s.restart + o.restart}
}

// bootThrice boots one node cold, after a power cut, and beside its pods.
func bootThrice(b *testing.B, opts sealednode.Options) (took boots) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 3*bootLimit)
	defer cancel()
	n, err := sealednode.New(ctx, opts)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if b.Failed() {
			dir := filepath.Join(os.TempDir(), "rke2-bench-logs", opts.Name)
			b.Logf("logs: %s, %v", dir, n.Collect(ctx, dir))
		}
		if err := n.Close(); err != nil {
			b.Error(err)
		}
	}()
	start := func(what string) (ready, pods time.Duration) {
		if err := n.Start(ctx); err != nil {
			b.Fatal(err)
		}
		if err := n.WaitReady(ctx, bootLimit); err != nil {
			b.Fatal(err)
		}
		ready = time.Since(n.Started())
		if err := n.WaitControlPlane(ctx, bootLimit); err != nil {
			b.Fatal(err)
		}
		pods = time.Since(n.Started())
		b.Logf("%s, %s: Ready after %.1f s, control plane after %.1f s", opts.Name, what, ready.Seconds(), pods.Seconds())
		return ready, pods
	}
	took.cold, _ = start("cold")
	line := timeline(b, ctx, n, opts)
	if err := n.Reboot(ctx); err != nil {
		b.Fatal(err)
	}
	sealednode.NextSecond()
	took.reboot, took.pods = start("reboot")
	line += timeline(b, ctx, n, opts)
	before, err := n.Containers(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if err := n.Stop(ctx, stopLimit); err != nil {
		b.Fatal(err)
	}
	sealednode.NextSecond()
	took.restart, _ = start("restart")
	line += timeline(b, ctx, n, opts)
	after, err := n.Containers(ctx)
	if err != nil {
		b.Fatal(err)
	}
	changed := sealednode.Difference(before, after)
	b.Logf("%s, restart: %d containers changed\n%s", opts.Name, len(changed), line)
	if opts.Name == "ours" && (len(changed) > 0 || !strings.Contains(line, "start=restart")) {
		b.Errorf("the restart restarted pods, or there is no timeline:\n%s\n%s", strings.Join(changed, "\n"), line)
	}
	return took
}

// timeline waits for our node's own line, which is written when all images are in.
func timeline(b *testing.B, ctx context.Context, n *sealednode.Node, opts sealednode.Options) string {
	b.Helper()
	if opts.Name != "ours" {
		return ""
	}
	var lines []string
	err := sealed.Wait(ctx, "the timeline", bootLimit, func(context.Context) error {
		log, err := n.Log()
		if err != nil {
			return err
		}
		lines = regexp.MustCompile(`(?m)^.*(msg=timeline|images are ready).*$`).FindAllString(log, -1)
		if !strings.Contains(strings.Join(lines, "\n"), "msg=timeline") || !strings.Contains(strings.Join(lines, "\n"), "images are ready") {
			return fmt.Errorf("the log has %q", lines)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return strings.Join(lines, "\n") + "\n"
}

// bulk is a bundle of images of 64 MB.
func bulk(b *testing.B, images int) string {
	b.Helper()
	var source fake.Bulk
	for i := range images {
		const layers = 4
		seeds := make([]uint64, layers)
		for l := range seeds {
			seeds[l] = uint64(i*layers + l + 1)
		}
		if err := source.Add(fmt.Sprintf("registry.example/bulk/image-%02d:v1", i), runtime.GOARCH, 16<<20, seeds...); err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "site-bulk.tar")
	if err := source.WriteBundle(b.Context(), path, runtime.GOARCH); err != nil {
		b.Fatal(err)
	}
	return path
}

// peerProgram builds tests/bench/peer with the release of the products.
func peerProgram(b *testing.B, p sealednode.Products) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "peer")
	run(b, root(b), nil, "go", "build", "-overlay", filepath.Join(p.Dir, "overlay.json"),
		"-ldflags", "-s -w -linkmode=external -extldflags=-static -X=github.com/k3s-io/k3s/pkg/version.Program=rke2",
		"-o", path, "./tests/bench/peer")
	return path
}

// admittedImages are a bundle's images of this platform.
func admittedImages(b *testing.B, archive *airgap.Archive) []airgap.Image {
	b.Helper()
	images := slices.DeleteFunc(slices.Clone(archive.Images()), func(i airgap.Image) bool {
		return len(i.Refs) == 0 || i.Platform != nil && i.Platform.Architecture != runtime.GOARCH
	})
	if len(images) == 0 {
		b.Fatalf("%s has no images", archive.Path())
	}
	return images
}

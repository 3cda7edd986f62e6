package bench

import (
	"path/filepath"
	"testing"
)

// small is an image of one small component, which needs only Go's standard library.
const (
	small          = "mirrored-pause"
	smallComponent = "pause"
)

// buildSmall makes the image with caches in dir.
func buildSmall(b *testing.B, dir string) int64 {
	b.Helper()
	run(b, root(b), caches(dir), program(b), "image", small, "--dist", filepath.Join(dir, "dist"))
	return 0
}

// goBuildSmall has the go command build the component with the same settings.
func goBuildSmall(b *testing.B, dir string) int64 {
	b.Helper()
	run(b, filepath.Join(root(b), "images", smallComponent), append(caches(dir), "CGO_ENABLED=0", "GOFLAGS="), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(dir, smallComponent), ".")
	return 0
}

func caches(dir string) []string {
	return []string{"GOCACHE=" + filepath.Join(dir, "go"), "RKE2_BUILD_CACHE=" + filepath.Join(dir, "cache"), "GOFIPS140=v1.0.0"}
}

// BenchmarkBuildCold: nothing is cached, neither Go's packages nor ours. What go build
// leaves to do is the layer, the image and the checks.
func BenchmarkBuildCold(b *testing.B) {
	versus(b, func(dir string) int64 { return buildSmall(b, dir) }, func(dir string) int64 { return goBuildSmall(b, dir) })
}

// BenchmarkBuildWarm: nothing changed since the last time, for both.
func BenchmarkBuildWarm(b *testing.B) {
	ours, peer := b.TempDir(), b.TempDir()
	buildSmall(b, ours)
	goBuildSmall(b, peer)
	versus(b, func(string) int64 { return buildSmall(b, ours) }, func(string) int64 { return goBuildSmall(b, peer) })
}

// BenchmarkBuildWarmAgainstCold: what the caches save.
func BenchmarkBuildWarmAgainstCold(b *testing.B) {
	warm := b.TempDir()
	buildSmall(b, warm)
	versus(b, func(string) int64 { return buildSmall(b, warm) }, func(dir string) int64 { return buildSmall(b, dir) })
}

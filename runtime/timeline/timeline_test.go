package timeline

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLine(t *testing.T) {
	var said []string
	line := New(Reboot, time.Now().Add(-3*time.Second), func(s string) { said = append(said, s) })
	ctx := With(context.Background(), line)
	Of(ctx).Mark(Stage) // the clock's order counts, not the constants'
	Of(ctx).Mark(Scan)
	line.Read(2, 300)
	line.Read(1, 10)
	line.Status("importing images: 1 of 2")

	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	line.Log(log)
	got := out.String()
	if !regexp.MustCompile(`msg=timeline start=reboot seconds="stage=3\.\d\d scan=3\.\d\d" blobs=3 bytes=310`).MatchString(got) {
		t.Errorf("the line is %s", got)
	}
	want := []string{"starting containerd", "verifying the runtime image", "importing images: 1 of 2"}
	if !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

// TestStatusAfterTheImport: when all images are there, the last word is not how far their
// import was, but what else goes on.
func TestStatusAfterTheImport(t *testing.T) {
	for want, marks := range map[string][]Phase{
		"starting the kubelet": {Stage, Containerd, Images}, "running": {Stage, Containerd, Etcd, API, Ready, Pods, Images},
		"waiting for this node to be Ready": {Containerd, Etcd, Images, API},
	} {
		var said string
		line := New(Cold, time.Now(), func(s string) { said = s })
		for _, m := range marks {
			if m == Images {
				line.Status("importing images: 9 of 9")
			}
			line.Mark(m)
		}
		if said != want {
			t.Errorf("after %q it says %q, want %q", marks, said, want)
		}
	}
}

func TestFirstMarkCounts(t *testing.T) {
	line := New(Cold, time.Now(), nil)
	line.Mark(Ready)
	before := line.attrs()
	time.Sleep(20 * time.Millisecond)
	line.Mark(Ready)
	if after := line.attrs(); !slices.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

func TestNilTakesEverything(t *testing.T) {
	line := Of(context.Background())
	line.Mark(Scan)
	line.Read(1, 1)
	line.Status("x")
	line.Log(slog.New(slog.DiscardHandler))
	if line.Has(Scan) || !line.Started().IsZero() {
		t.Error("nothing was kept, but it is there")
	}
}

func TestMarksFromManySides(t *testing.T) {
	line := New(Cold, time.Now(), func(string) {})
	var all sync.WaitGroup
	for _, phase := range []Phase{Scan, Verify, Stage, Containerd, Etcd, API, Images, Ready, Pods} {
		all.Go(func() { line.Mark(phase); line.Read(1, 1) })
	}
	all.Wait()
	if n := strings.Count(fmt.Sprint(line.attrs()), "="); n != 9 {
		t.Errorf("%d marks: %v", n, line.attrs())
	}
}

func TestProcessStarted(t *testing.T) {
	age := time.Since(ProcessStarted())
	if age <= 0 || age > time.Hour {
		t.Errorf("this process is %s old", age)
	}
	if _, err := processAge([]byte("1 (a) b) R 1 2")); err == nil {
		t.Error("a line that is too short was read")
	}
}

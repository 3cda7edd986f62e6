//go:build linux

package scenarios

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/sealed"
)

var timelineForm = regexp.MustCompile(`msg=timeline blobs=(\d+) bytes=(\d+) seconds="([^"]+)" start=(\S+)`)

// timelined waits for the line in which rke2 says where the time of its start went, and
// checks it: the kind of start, every phase of a server once and none after a later one
// that it needs, what was read. A start that imports nothing must not have read a blob.
func timelined(ctx context.Context, t *testing.T, s *scenario, kind string, reads bool) {
	t.Helper()
	var found []string
	err := sealed.Wait(ctx, "the timeline", stepLimit, func(context.Context) error {
		log, err := s.Log()
		if err != nil {
			return err
		}
		if found = timelineForm.FindStringSubmatch(log); found == nil {
			return errors.New("the log has no such line")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	report(t, "timeline of the "+kind+" start, s", found[3])
	if found[4] != kind {
		t.Errorf("it says that the start was a %s, not a %s", found[4], kind)
	}
	if read := found[1] != "0" && found[2] != "0"; read != reads {
		t.Errorf("it says that %s blobs and %s bytes were read", found[1], found[2])
	}
	at := map[string]float64{}
	for _, mark := range strings.Fields(found[3]) {
		phase, text, _ := strings.Cut(mark, "=")
		seconds, err := strconv.ParseFloat(text, 64)
		if _, again := at[phase]; err != nil || again || seconds < 0 {
			t.Errorf("%q in %q: %v", mark, found[3], err)
		}
		at[phase] = seconds
	}
	for _, order := range [][]string{
		{"scan", "verify", "stage", "containerd", "pods"},
		{"etcd", "pods"}, {"api", "ready", "pods"},
	} {
		for i, phase := range order {
			if _, ok := at[phase]; !ok {
				t.Errorf("it does not say when %s was reached: %q", phase, found[3])
			} else if i > 0 && at[order[i-1]] > at[phase] {
				t.Errorf("%s comes after %s: %q", order[i-1], phase, found[3])
			}
		}
	}
}

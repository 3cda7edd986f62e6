package timeline

import (
	"testing"
	"time"
)

func TestMarks(t *testing.T) {
	var none *Line
	if blobs, bytes := none.Totals(); len(none.Marks()) != 0 || blobs != 0 || bytes != 0 {
		t.Error("no timeline has marks")
	}
	line := New(Cold, time.Now().Add(-time.Minute), nil)
	line.Mark(Scan)
	line.Read(2, 10)
	marks := line.Marks()
	if blobs, bytes := line.Totals(); len(marks) != 1 || marks[Scan] < time.Minute || blobs != 2 || bytes != 10 {
		t.Errorf("got %v, %d blobs of %d bytes", marks, blobs, bytes)
	}
	marks[Verify] = 1
	if line.Has(Verify) {
		t.Error("the caller's map is the timeline's own")
	}
}

package timeline

import "time"

// Marks are the phases that were reached, as what had passed since the start.
func (l *Line) Marks() map[Phase]time.Duration {
	out := map[Phase]time.Duration{}
	if l == nil {
		return out
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.marks {
		out[m.phase] = m.at
	}
	return out
}

// Totals is what was read since the start; see [Line.Read].
func (l *Line) Totals() (blobs int, bytes int64) {
	if l == nil {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blobs, l.bytes
}

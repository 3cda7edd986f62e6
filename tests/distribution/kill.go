package distribution

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Stored is how many bytes of whole layers, of a MiB and more, the registry has.
func (s *Server) Stored(t testing.TB) (n int64) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(s.Dir, "docker/registry/v2/blobs/sha256/*/*/data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if st, err := os.Stat(b); err == nil && st.Size() >= 1<<20 {
			n += st.Size()
		}
	}
	return n
}

// KillAt starts a command that pushes through the proxy, and kills it when the registry
// has that many bytes, of this push and earlier ones. said is what the command prints.
func (p *Proxy) KillAt(t testing.TB, s *Server, cmd *exec.Cmd, bytes int64, said fmt.Stringer) {
	t.Helper()
	p.Reset()
	begun := s.Stored(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(2 * time.Minute); begun+p.Bytes() < bytes; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("only %d bytes were sent:\n%s", p.Bytes(), said)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was done before it was killed: this tested nothing")
	}
}

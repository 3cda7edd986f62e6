package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRotation(t *testing.T) {
	inUse := t.TempDir()
	for _, name := range authorities {
		write(t, filepath.Join(inUse, name+"-ca.crt"), "old certificate "+name)
		write(t, filepath.Join(inUse, name+"-ca.key"), "old key "+name)
	}
	write(t, filepath.Join(inUse, serviceKey), "old key")
	for _, c := range []struct {
		name  string
		files map[string]string
		fresh []string
		want  string
	}{
		{"one of them", map[string]string{"server-ca.crt": "new", "server-ca.key": "new"}, []string{"server-ca.crt", "server-ca.key"}, ""},
		{"in tls", map[string]string{"tls/etcd/peer-ca.crt": "new", "tls/etcd/peer-ca.key": "new"}, []string{"etcd/peer-ca.crt", "etcd/peer-ca.key"}, ""},
		{"beside what stays", map[string]string{
			"server-ca.crt": "old certificate server", "server-ca.key": "old key server", serviceKey: "new",
		}, []string{serviceKey}, ""},
		{"certificate without a key", map[string]string{"server-ca.crt": "new"}, nil, "server-ca.crt and server-ca.key: an authority needs both"},
		{"nothing new", map[string]string{serviceKey: "old key"}, nil, "is new: service.key there"},
		{"other names", map[string]string{"ca.pem": "new"}, nil, "has none of the files that can be rotated: server-ca.crt, client-ca.crt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range c.files {
				write(t, filepath.Join(dir, file), content)
			}
			r, err := newRotation(dir, inUse)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
					t.Errorf("got %v, want %q and the folder", err, c.want)
				}
				return
			}
			if err != nil || !slices.Equal(r.fresh, c.fresh) {
				t.Fatalf("new is %q, want %q (%v)", r.fresh, c.fresh, err)
			}
			folder, err := r.layOut()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.RemoveAll(folder); err != nil {
					t.Error(err)
				}
			}()
			for _, file := range []string{"server-ca.crt", "etcd/peer-ca.key", serviceKey} {
				want := ""
				if slices.Contains(c.fresh, file) {
					want = "new"
				}
				got, err := os.ReadFile(filepath.Join(folder, "tls", file))
				if err != nil || string(got) != want {
					t.Errorf("the engine reads %q in %s, want %q (%v)", got, file, want, err)
				}
			}
		})
	}
}

package engine

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
)

func TestPolicyFiles(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	e := newExecutor(config.Config{AuditPolicyFile: policy}, host.Facts{}, nil, slog.New(slog.DiscardHandler))
	if err := e.policyFiles(); err == nil || !strings.Contains(err.Error(), "audit-policy-file: ") || !strings.Contains(err.Error(), policy) {
		t.Errorf("a policy that is not there: %v", err)
	}
	if _, err := os.Stat(policy); err == nil {
		t.Error("the operator's own file was made up")
	}
	write(t, policy, "x")
	if err := e.policyFiles(); err != nil {
		t.Error(err)
	}
}

func TestBoundTo(t *testing.T) {
	for want, args := range map[string][]string{
		"127.0.0.1": {"--bind-address=0.0.0.0"}, "::1": {"--v=1", "--bind-address=::"}, "192.0.2.7": {"--bind-address=192.0.2.7"},
	} {
		if got := boundTo(args); got != want {
			t.Errorf("%q: got %s, want %s", args, got, want)
		}
	}
	if got := boundTo(nil); got != "127.0.0.1" {
		t.Errorf("got %s", got)
	}
	for urls, want := range map[string]string{
		"http://127.0.0.1:2381,http://192.0.2.7:2381": "127.0.0.1", "http://[::1]:2381": "::1", "": "127.0.0.1",
	} {
		if got := firstHost(urls); got != want {
			t.Errorf("%q: got %s, want %s", urls, got, want)
		}
	}
}

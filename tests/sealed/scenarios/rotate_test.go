//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// rotatesToken: the new one lets nodes in, the old one no more; who is in stays in.
func rotatesToken(ctx context.Context, t *testing.T, c *cluster) {
	old := c.token
	made := printed(ctx, t, c.one, "token", "create", "--ttl", "1h", "--description", "for the test")
	if status, err := supervisor(ctx, c.two, "server", old); err != nil || status != http.StatusOK {
		t.Fatalf("joining with the token before it is rotated: %d, %v", status, err)
	}
	if out := mustRun(ctx, t, c.one, "token", "list", "-o", "json"); !strings.Contains(out, "for the test") {
		t.Error("the token that was made is not listed")
	}
	mustRun(ctx, t, c.one, "token", "delete", made)
	if out := mustRun(ctx, t, c.one, "token", "list"); strings.Contains(out, "for the test") {
		t.Error("the token that was deleted is listed")
	}
	c.token = "a-second-secret"
	if _, err := rke2(ctx, c.one, "token", "rotate", "--new-token", printed(ctx, t, c.one, "token", "generate")); err == nil || !strings.Contains(err.Error(), "form of a bootstrap token") {
		t.Errorf("rotating to a bootstrap token: %v", err)
	}
	mustRun(ctx, t, c.one, "token", "rotate", "--new-token", c.token)
	for _, n := range append(c.servers(), c.agent) {
		setOption(t, n, old, c.token)
	}
	// A server takes the new one from its next start on. The third and the agent are
	// started again by the parts that come next.
	restart(ctx, t, c.one, nil)
	restart(ctx, t, c.two, nil)
	for token, want := range map[string]int{old: http.StatusUnauthorized, c.token: http.StatusOK} {
		if err := sealed.Wait(ctx, "an answer about a token", stepLimit, func(ctx context.Context) error {
			got, err := supervisor(ctx, c.two, "server", token)
			if err == nil && got != want {
				err = fmt.Errorf("status %d, want %d", got, want)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// served is the certificate that a port of a host shows, by its serial number.
func served(ctx context.Context, n *node.Node, port string) (string, error) {
	cert, err := shown(ctx, n, port)
	if err != nil {
		return "", err
	}
	return cert.SerialNumber.String(), nil
}

// rotatesCertificates: those of a server and of an agent; what listens shows new ones.
func rotatesCertificates(ctx context.Context, t *testing.T, c *cluster) {
	for _, r := range []struct {
		node  *node.Node
		ports map[string]string
	}{
		{c.three, map[string]string{"kubelet": "10250", "kube-apiserver": "6443", "etcd": "2379"}},
		{c.agent, map[string]string{"kubelet": "10250"}},
	} {
		before := map[string]string{}
		for what, port := range r.ports {
			serial, err := served(ctx, r.node, port)
			if err != nil {
				t.Fatalf("%s of %s: %v", what, r.node.Name(), err)
			}
			before[what] = serial
		}
		var info struct {
			Certificates []struct{ Filename, Status string }
		}
		out, err := r.node.Command(ctx, "rke2", "certificate", "check", "-o", "json").Output()
		if err := errors.Join(err, json.Unmarshal(out, &info)); err != nil || len(info.Certificates) == 0 {
			t.Fatalf("certificate check: %v\n%s", err, out)
		}
		for _, c := range info.Certificates {
			if c.Status != "OK" {
				t.Errorf("%s is %s", c.Filename, c.Status)
			}
		}
		restart(ctx, t, r.node, func() { mustRun(ctx, t, r.node, "certificate", "rotate") })
		for what, port := range r.ports {
			if err := sealed.Wait(ctx, "a new certificate of "+what, stepLimit, func(ctx context.Context) error {
				serial, err := served(ctx, r.node, port)
				if err == nil && serial == before[what] {
					err = errors.New("it shows the old one")
				}
				return err
			}); err != nil {
				t.Errorf("%s: %v", r.node.Name(), err)
			}
		}
	}
	if err := c.three.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Error(err)
	}
	c.healthy(ctx, t, c.one, 3)
}

// keptSecret is read again after everything that happens to the keys.
const keptSecret = "kept"

// encryption is what `rke2 secrets-encrypt status -o json` says.
type encryption struct {
	Enable       bool
	ActiveKey    string
	InactiveKeys []string
	Stage        string
	HashMatch    bool
}

func encryptionStatus(ctx context.Context, n *node.Node) (e encryption, err error) {
	out, err := n.Command(ctx, "rke2", "secrets-encrypt", "status", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &e)
	}
	return e, err
}

// rotatesKeys: the way with restarts and the way without. Secrets stay readable, and
// are encrypted in etcd with the key that is said to be in use.
func rotatesKeys(ctx context.Context, t *testing.T, c *cluster) {
	first := encrypted(ctx, t, c.one, "start", "")
	soonRun(ctx, t, c.one, "secrets-encrypt", "prepare")
	restart(ctx, t, c.one, nil)
	soonRun(ctx, t, c.one, "secrets-encrypt", "rotate")
	restart(ctx, t, c.one, nil)
	soonRun(ctx, t, c.one, "secrets-encrypt", "reencrypt")
	second := encrypted(ctx, t, c.one, "reencrypt_finished", first)
	restart(ctx, t, c.one, nil)
	soonRun(ctx, t, c.one, "secrets-encrypt", "rotate-keys")
	encrypted(ctx, t, c.one, "reencrypt_finished", second)
	mustRun(ctx, t, c.one, "secrets-encrypt", "status")
}

// encrypted waits for a stage of the rotation with one key, not the old one, and for the
// test's secret to be encrypted with that in etcd. It returns the key's name.
func encrypted(ctx context.Context, t *testing.T, n *node.Node, stage, old string) (key string) {
	t.Helper()
	if err := sealed.Wait(ctx, "stage "+stage+" of the rotation", stepLimit, func(ctx context.Context) error {
		e, err := encryptionStatus(ctx, n)
		if err == nil && (!e.Enable || !e.HashMatch || e.Stage != stage || e.ActiveKey == "" || e.ActiveKey == old || len(e.InactiveKeys) > 0) {
			err = fmt.Errorf("%+v", e)
		}
		key = e.ActiveKey
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, name, _ := strings.Cut(key, " ")
	if err := sealed.Wait(ctx, "the secret in etcd", stepLimit, func(ctx context.Context) error {
		out, err := etcdctl(ctx, n, "get", "/registry/secrets/default/"+keptSecret)
		if err != nil {
			return err
		}
		var got struct {
			Kvs []struct{ Value []byte }
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Kvs) != 1 {
			return fmt.Errorf("%w: %s", err, out)
		}
		if value := string(got.Kvs[0].Value); !strings.HasPrefix(value, "k8s:enc:aescbc:v1:"+name+":") || strings.Contains(value, "plain-") {
			return fmt.Errorf("it is %.40q, not encrypted with %s", value, name)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if word, err := readSecret(ctx, n, keptSecret); err != nil || word != "plain-"+keptSecret {
		t.Errorf("the secret reads %q, %v", word, err)
	}
	return key
}

// keepSecret makes the secret that is read again later.
func keepSecret(ctx context.Context, n *node.Node) error {
	client, err := n.Client()
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: keptSecret}, StringData: map[string]string{"word": "plain-" + keptSecret},
	}, metav1.CreateOptions{})
	return err
}

func readSecret(ctx context.Context, n *node.Node, name string) (string, error) {
	client, err := n.Client()
	if err != nil {
		return "", err
	}
	s, err := client.CoreV1().Secrets("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return string(s.Data["word"]), nil
}

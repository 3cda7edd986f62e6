package engine

import (
	"path/filepath"
	"testing"

	"github.com/rancher/rke2/runtime/pod"
)

func digestOf(t *testing.T, c pod.Component) string {
	t.Helper()
	d, err := inputsDigest(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestInputsOfInputs: a kubeconfig stays as it is when the certificate that it names
// is rotated.
func TestInputsOfInputs(t *testing.T) {
	dir := t.TempDir()
	cert, config := filepath.Join(dir, "client.crt"), filepath.Join(dir, "component.kubeconfig")
	write(t, cert, "1")
	write(t, config, "users:\n- user:\n    client-certificate: "+cert+"\n    client-key: /no/such/file\nfolder: "+dir+"\n")
	c := pod.Component{Name: "x", Args: []string{"--kubeconfig=" + config}}
	digest := func() string { return digestOf(t, c) }
	first := digest()
	if digest() != first {
		t.Error("nothing changed, but the digest did")
	}
	write(t, cert, "2")
	if digest() == first {
		t.Error("the certificate that the kubeconfig names changed, the digest did not")
	}
	write(t, cert, "1")
	if digest() != first {
		t.Error("the digest is not of the content alone")
	}
}

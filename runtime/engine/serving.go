package engine

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/k3s-io/k3s/pkg/version"
	"github.com/rancher/dynamiclistener/cert"
	"github.com/rancher/dynamiclistener/factory"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// keepServing has the certificate of the servers' own port, which they share through a
// Secret, signed by the authority that is in use. The engine signs it anew when the
// authorities are rotated, but takes the old one back where another server has put more
// names into it since.
func (e *Executor) keepServing(ctx context.Context) {
	if wait(ctx, e.apiServerReady) != nil {
		return
	}
	client, err := e.supervisor()
	if err != nil {
		e.log.Warn("cannot watch over the certificate of the supervisor's port", "error", err)
		return
	}
	tell := func(object any) {
		secret, ok := object.(*corev1.Secret)
		if !ok {
			return
		}
		renewed, err := e.renewServing(ctx, client, secret)
		if err != nil && ctx.Err() == nil {
			e.log.Warn("cannot renew the certificate of the supervisor's port", "error", err)
		}
		if renewed {
			e.log.Info("signed the certificate of the supervisor's port by the authority in use", "secret", secret.Namespace+"/"+secret.Name)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "secrets", metav1.NamespaceSystem,
			fields.OneTermEqualSelector(metav1.ObjectNameField, version.Program+"-serving")),
		ObjectType: &corev1.Secret{},
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, now any) { tell(now) }},
	})
	controller.RunWithContext(ctx)
}

// renewServing writes the Secret anew if an authority has signed what is in it that has
// been replaced since: the new one's file names it among those that vouch for the new one.
// A server that has not been started since then does not know the new one, and leaves
// alone what that signed.
func (e *Executor) renewServing(ctx context.Context, client kubernetes.Interface, secret *corev1.Secret) (bool, error) {
	tls := filepath.Join(e.serverDir(), "tls")
	chain, key, err := factory.LoadCertsChain(filepath.Join(tls, "server-ca.crt"), filepath.Join(tls, "server-ca.key"))
	if err != nil {
		return false, err
	}
	certs, err := cert.ParseCertsPEM(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return false, fmt.Errorf("reading the Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	replaced := slices.ContainsFunc(chain[1:], func(c *x509.Certificate) bool { return certs[0].CheckSignatureFrom(c) == nil })
	if !replaced || certs[0].CheckSignatureFrom(chain[0]) == nil || factory.IsStatic(secret) {
		return false, nil
	}
	renewed, err := (&factory.TLS{CACert: chain, CAKey: key, CN: version.Program, Organization: []string{version.Program}}).Renew(secret)
	if err != nil {
		return false, err
	}
	// If somebody wrote it in the meantime, that is heard of, and looked at then.
	_, err = client.CoreV1().Secrets(secret.Namespace).Update(ctx, renewed, metav1.UpdateOptions{})
	return err == nil, err
}

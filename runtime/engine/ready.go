package engine

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rancher/rke2/runtime/timeline"
)

// waitAPIServer gives a channel that closes when the API server that the
// kubeconfig names answers /readyz, and is the one that this start wants: one of
// before, which is about to be replaced, does not know the keys that secrets are
// to be encrypted with, and would let a re-encryption end that never was. It has
// no limit of its own: on an agent the servers may be down for hours, and the log
// says what is being waited for.
func (e *Executor) waitAPIServer(ctx context.Context, kubeconfig string) <-chan struct{} {
	ready := make(chan struct{})
	e.goWith(ctx, func(ctx context.Context) {
		client, err := freshConnections(kubeconfig)
		if err != nil {
			e.fail(fmt.Errorf("waiting for the API server: %w", err))
			return
		}
		readyz := func(ctx context.Context) error {
			_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
			return err
		}
		if e.runs("kube-apiserver") && e.settled.wait(ctx, "kube-apiserver") != nil {
			return
		}
		if retry(ctx, e.log, poll, readyz, "waiting for the API server") == nil {
			e.content.Timeline().Mark(timeline.API)
			close(ready)
		}
	})
	return ready
}

// freshConnections is a client that dials for every request, so that each goes
// through the load balancer's current endpoints.
func freshConnections(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = 15 * time.Second
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r.Close = true
			return next.RoundTrip(r)
		})
	})
	return kubernetes.NewForConfig(config)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// supervisor is a client with the rights of this server's supervisor, an administrator.
func (e *Executor) supervisor() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(e.serverDir(), "cred", "supervisor.kubeconfig"))
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(rest.AddUserAgent(config, "rke2-supervisor"))
}

// tokenAuthenticator asks the API server whose token a request carries
// (TokenReview, authentication.k8s.io/v1).
func tokenAuthenticator(client kubernetes.Interface) authenticator.Request {
	review := func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		answer, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token},
		}, metav1.CreateOptions{})
		if err != nil || !answer.Status.Authenticated {
			return nil, false, err
		}
		extra := map[string][]string{}
		for k, v := range answer.Status.User.Extra {
			extra[k] = v
		}
		return &authenticator.Response{
			Audiences: answer.Status.Audiences,
			User: &user.DefaultInfo{
				Name: answer.Status.User.Username, UID: answer.Status.User.UID,
				Groups: answer.Status.User.Groups, Extra: extra,
			},
		}, true, nil
	}
	return bearertoken.New(authenticator.TokenFunc(review))
}

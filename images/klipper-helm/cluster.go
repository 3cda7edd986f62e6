package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// apiWait is how long to wait for a Kubernetes API that does not answer, before it
	// is left to the kubelet to try again: a job of the bootstrap may be early.
	apiWait = time.Minute
	apiPoll = 500 * time.Millisecond
	// fieldManager is Helm's, so that a release made by Helm's command line, or by
	// another job image, is not seen as somebody else's.
	fieldManager = "helm"
)

// cluster answers Helm's questions about the Kubernetes API: the pod's service account,
// or $KUBECONFIG where that is set. What the API can do is remembered in memory: there
// is nowhere to write to.
type cluster struct {
	config    clientcmd.ClientConfig
	rest      *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
}

var _ genericclioptions.RESTClientGetter = (*cluster)(nil)

func newCluster(namespace string, r *report) (*cluster, error) {
	c := &cluster{config: clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{Context: clientapi.Context{Namespace: namespace}},
	)}
	conf, err := c.config.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	conf.UserAgent = userName
	conf.QPS, conf.Burst = 50, 300
	conf.DisableCompression = true // the API server is at hand, and busy when charts are installed
	conf.WarningHandler = rest.NewWarningWriter(writer{r, ""}, rest.WarningWriterOptions{Deduplicate: true})
	conf.Wrap(func(next http.RoundTripper) http.RoundTripper { return &kube.RetryingRoundTripper{Wrapped: next} })
	c.rest = conf
	d, err := discovery.NewDiscoveryClientForConfig(conf)
	if err != nil {
		return nil, fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	c.discovery = memory.NewMemCacheClient(d)
	// One for all that Helm does: each new one would go through all that is served.
	c.mapper = restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(c.discovery), c.discovery, nil)
	return c, nil
}

func (c *cluster) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(c.rest), nil }

func (c *cluster) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return c.discovery, nil
}

func (c *cluster) ToRESTMapper() (meta.RESTMapper, error) { return c.mapper, nil }

func (c *cluster) ToRawKubeConfigLoader() clientcmd.ClientConfig { return c.config }

// configuration connects Helm with the cluster.
func configuration(j job, r *report) (*action.Configuration, error) {
	c, err := newCluster(j.namespace, r)
	if err != nil {
		return nil, err
	}
	kube.ManagedFieldsManager = fieldManager
	cfg := new(action.Configuration)
	if err := cfg.Init(c, j.namespace, j.driver, r.helm); err != nil {
		return nil, fmt.Errorf("preparing Helm: %w", err)
	}
	helm, ok := cfg.KubeClient.(*kube.Client)
	if !ok {
		return nil, fmt.Errorf("preparing Helm: its client is a %T", cfg.KubeClient)
	}
	cfg.KubeClient = client{helm}
	// Of hooks whose chart wants it (helm.sh/hook-output-log-policy).
	cfg.SetHookOutputFunc(func(_, pod, container string) io.Writer {
		return writer{r, "hook " + pod + ", " + container + ": "}
	})
	return cfg, nil
}

// reach waits for the API to answer. An answer that is an error, such as Unauthorized,
// is one: waiting would not change it.
func reach(ctx context.Context, k kube.Interface, wait time.Duration, r *report) error {
	deadline := time.Now().Add(wait)
	for told := false; ; told = true {
		err := k.IsReachable()
		if err == nil {
			return nil
		}
		if code := apierrors.ReasonForError(err); code != "" && !apierrors.IsServiceUnavailable(err) && !apierrors.IsInternalError(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s: %w", wait, err)
		}
		if !told {
			r.say("waiting for the Kubernetes API: %v", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(apiPoll):
		}
	}
}

// writer makes lines of the log of what is written.
type writer struct {
	r      *report
	prefix string
}

func (w writer) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		w.r.say("%s%s", w.prefix, line)
	}
	return len(p), nil
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	account     = "/var/run/secrets/kubernetes.io/serviceaccount"
	requestTime = 30 * time.Second
	// A connection that was begun before kube-proxy knew the service never comes about:
	// give it up soon, the next one does.
	dialTime = 3 * time.Second
)

// apiServer is the cluster's API, spoken to with what a pod's service account has.
type apiServer struct {
	base    string // https://HOST:PORT
	account string // folder of token and ca.crt, which the kubelet replaces

	ca     []byte // that the client was made with
	client *http.Client
}

// inCluster is the API server of the pod that this runs in.
func inCluster() (*apiServer, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this runs in a pod")
	}
	return &apiServer{base: "https://" + net.JoinHostPort(host, port), account: account}, nil
}

// connect makes the client, and makes it anew when the cluster's CA is another.
func (a *apiServer) connect() (*http.Client, error) {
	ca, err := os.ReadFile(filepath.Join(a.account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	if a.client != nil && bytes.Equal(ca, a.ca) {
		return a.client, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("reading the cluster's CA: no certificate in %s", filepath.Join(a.account, "ca.crt"))
	}
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	a.ca = ca
	a.client = &http.Client{
		Timeout: requestTime,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			IdleConnTimeout:     time.Minute,
		},
	}
	return a.client, nil
}

// call hands the answer's body to read.
func (a *apiServer) call(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	client, err := a.connect()
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(a.account, "token"))
	if err != nil {
		return fmt.Errorf("reading the service account's token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "coredns-autoscaler/"+version)
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := client.Do(req)
	if err != nil {
		client.CloseIdleConnections() // what was one may be dead: begin anew
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	return read(resp.Body)
}

// refusal is what the API server says of why not.
func refusal(resp *http.Response) error {
	var status struct{ Message string }
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	if json.Unmarshal(text, &status) == nil && status.Message != "" {
		return fmt.Errorf("%s: %s", resp.Status, status.Message)
	}
	return errors.New(resp.Status)
}

// size is how large a cluster is, or a part of it.
type size struct {
	nodes int
	cores float64 // that they have for pods
}

func (s *size) add(cores float64) {
	s.nodes++
	s.cores += cores
}

// sizes gives the size of the whole cluster, and of its nodes that are Ready and take pods.
// The answer comes from the API server's cache, and is read a node at a time: it can be
// long.
func (a *apiServer) sizes(ctx context.Context) (all, ready size, err error) {
	err = a.call(ctx, http.MethodGet, "/api/v1/nodes?resourceVersion=0", nil, func(body io.Reader) error {
		all, ready = size{}, size{}
		d := json.NewDecoder(body)
		if err := seekItems(d); err != nil {
			return err
		}
		for d.More() {
			var node struct {
				Metadata struct{ Name string }
				Spec     struct{ Unschedulable bool }
				Status   struct {
					Allocatable struct{ CPU string }
					Conditions  []struct{ Type, Status string }
				}
			}
			if err := d.Decode(&node); err != nil {
				return fmt.Errorf("reading the list of nodes: %w", err)
			}
			if node.Status.Allocatable.CPU == "" { // has just joined
				all.add(0)
				continue
			}
			n, err := parseCores(node.Status.Allocatable.CPU)
			if err != nil {
				return fmt.Errorf("node %s: %w", node.Metadata.Name, err)
			}
			all.add(n)
			for _, c := range node.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" && !node.Spec.Unschedulable {
					ready.add(n)
				}
			}
		}
		// What comes after them is read too: a list that is cut off is none.
		if err := bracket(d, ']'); err != nil {
			return err
		}
		if _, err := members(d, ""); err != nil {
			return err
		}
		return bracket(d, '}')
	})
	return all, ready, err
}

// seekItems goes to the first element of a list's items.
func seekItems(d *json.Decoder) error {
	if err := bracket(d, '{'); err != nil {
		return err
	}
	switch found, err := members(d, "items"); {
	case err != nil:
		return err
	case !found:
		return errors.New("reading the list of nodes: it has no items")
	}
	return bracket(d, '[')
}

// members passes over an object's members, up to the value of the one that is named.
func members(d *json.Decoder, name string) (found bool, err error) {
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return false, fmt.Errorf("reading the list of nodes: %w", err)
		}
		if key == name {
			return true, nil
		}
		var other json.RawMessage
		if err := d.Decode(&other); err != nil {
			return false, fmt.Errorf("reading the list of nodes: %w", err)
		}
	}
	return false, nil
}

// bracket passes over one that must come next.
func bracket(d *json.Decoder, want json.Delim) error {
	switch t, err := d.Token(); {
	case err == io.EOF:
		return fmt.Errorf("reading the list of nodes: it ends before %q", want.String())
	case err != nil:
		return fmt.Errorf("reading the list of nodes: %w", err)
	case t != want:
		return fmt.Errorf("reading the list of nodes: %v where %q was expected", t, want.String())
	}
	return nil
}

func scalePath(namespace, deployment string) string {
	return "/apis/apps/v1/namespaces/" + url.PathEscape(namespace) + "/deployments/" + url.PathEscape(deployment) + "/scale"
}

// scale is how many replicas the Deployment is asked to have.
func (a *apiServer) scale(ctx context.Context, namespace, deployment string) (int, error) {
	var scale struct{ Spec struct{ Replicas int } }
	err := a.call(ctx, http.MethodGet, scalePath(namespace, deployment), nil, func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&scale)
	})
	return scale.Spec.Replicas, err
}

func (a *apiServer) setScale(ctx context.Context, namespace, deployment string, replicas int) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	return a.call(ctx, http.MethodPatch, scalePath(namespace, deployment), patch, func(io.Reader) error { return nil })
}

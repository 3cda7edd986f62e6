package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// api is a Kubernetes API server, asked as the pod's service account.
type api struct {
	server string // https://HOST:PORT
	token  string // a file: it is renewed while the pod lives
	client *http.Client
}

// inCluster is the API server that a pod's environment names.
func inCluster() (api, error) {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return api{}, errors.New("finding the API server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: is this a pod?")
	}
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return api{}, fmt.Errorf("trusting the API server: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return api{}, fmt.Errorf("trusting the API server: %s has no certificate", filepath.Join(account, "ca.crt"))
	}
	return api{
		server: "https://" + net.JoinHostPort(host, port),
		token:  filepath.Join(account, "token"),
		client: &http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		},
	}, nil
}

// serves tells why not all resources of a group and version can be used.
func (a api) serves(ctx context.Context, version string, resources []string) error {
	var list struct {
		Resources []struct{ Name string }
	}
	if err := a.get(ctx, "/apis/"+version, &list); err != nil {
		return err
	}
	served := map[string]bool{}
	for _, r := range list.Resources {
		served[r.Name] = true
	}
	var missing []string
	for _, r := range resources {
		if !served[r] {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s has no %s yet", version, strings.Join(missing, ", "))
	}
	return nil
}

func (a api) exists(ctx context.Context, path string) error { return a.get(ctx, path, nil) }

// get reads a JSON document into result, unless that is nil.
func (a api) get(ctx context.Context, path string, result any) error {
	token, err := os.ReadFile(a.token)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return final{err}
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Accept", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, 4<<20)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, response.Status)
	}
	if result == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	if err := json.NewDecoder(body).Decode(result); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"helm.sh/helm/v3/pkg/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// oci pulls a chart from a registry: its tag or digest if the reference has one, else
// the newest that the version asks for.
func (f *fetcher) oci(u *url.URL, version string) ([]byte, error) {
	credential, err := f.credential()
	if err != nil {
		return nil, err
	}
	opts := []registry.ClientOption{
		registry.ClientOptHTTPClient(f.client),
		registry.ClientOptCredentialsFile(f.files.docker),
		registry.ClientOptAuthorizer(auth.Client{Client: f.client, Cache: auth.NewCache(), Credential: credential}),
	}
	if f.job.plainHTTP {
		opts = append(opts, registry.ClientOptPlainHTTP())
	}
	client, err := registry.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.files.docker, err)
	}
	at, err := client.ValidateReference(u.String(), version, &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path})
	if err != nil {
		return nil, explainRegistry(err)
	}
	result, err := client.Pull(at.String())
	if err != nil {
		return nil, explainRegistry(err)
	}
	return result.Chart.Data, nil
}

// credential gives a registry's credentials: of the job's secret, else of the mounted
// docker configuration. Only what is written in that file: credential helpers are
// programs, and none is run here.
func (f *fetcher) credential() (auth.CredentialFunc, error) {
	if f.user != "" {
		return auth.StaticCredential(f.url.Host, auth.Credential{Username: f.user, Password: f.password}), nil
	}
	if _, err := os.Stat(f.files.docker); errors.Is(err, fs.ErrNotExist) {
		return func(context.Context, string) (auth.Credential, error) { return auth.EmptyCredential, nil }, nil
	}
	store, err := credentials.NewFileStore(f.files.docker)
	if err != nil {
		return nil, usagef("%s, which is the secret of spec.dockerRegistrySecret, is not a docker configuration: %v", f.files.docker, err)
	}
	return credentials.Credential(store), nil
}

func explainRegistry(err error) error {
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return fmt.Errorf("the registry wants a password and there are no credentials for it: see spec.dockerRegistrySecret and spec.authSecret: %w", err)
	}
	return explain(err)
}

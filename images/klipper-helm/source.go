package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/repo"
)

// source finds the chart of a job.
type source struct {
	job    job
	files  files
	report *report
}

// load gives the chart, checked for what Helm's command line checks before it installs
// one. The chart in /chart wins over CHART.
func (s *source) load(ctx context.Context) (*chart.Chart, error) {
	ch, from, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if t := ch.Metadata.Type; t != "" && t != "application" {
		return nil, fmt.Errorf("chart %s from %s is a %s chart, which cannot be installed", ch.Name(), from, t)
	}
	if err := action.CheckDependencies(ch, ch.Metadata.Dependencies); err != nil {
		return nil, fmt.Errorf("chart %s from %s lacks charts that it depends on (package it with helm package --dependency-update): %w", ch.Name(), from, err)
	}
	s.report.say("chart %s %s from %s", ch.Name(), ch.Metadata.Version, from)
	if ch.Metadata.Deprecated {
		s.report.say("warning: its maintainers have deprecated this chart")
	}
	return ch, nil
}

func (s *source) find(ctx context.Context) (_ *chart.Chart, from string, _ error) {
	content := filepath.Join(s.files.chart, s.job.name+".tgz.base64")
	f, err := os.Open(content)
	if err == nil {
		defer f.Close()
		ch, err := loader.LoadArchive(base64.NewDecoder(base64.StdEncoding, f))
		if err != nil {
			return nil, "", fmt.Errorf("reading %s, which is spec.chartContent of HelmChart %s and has to be a chart's .tgz in base64: %w", content, s.job.name, err)
		}
		return ch, "spec.chartContent", nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("reading the chart: %w", err)
	}
	name, repoURL := s.job.chart, s.job.repo
	if repoURL != "" {
		// The controller puts the release's name where a repository's would be.
		name = strings.TrimPrefix(name, s.job.name+"/")
	}
	switch {
	case name == "":
		return nil, "", usagef("no chart: CHART is empty and there is no %s", content)
	case isURL(name):
		ch, err := s.get(ctx, name, "", name)
		return ch, name, err
	case repoURL == "" && (filepath.IsAbs(name) || strings.HasPrefix(name, ".")):
		ch, err := loader.Load(name)
		if err != nil {
			return nil, "", fmt.Errorf("reading chart %s: %w", name, err)
		}
		return ch, name, nil
	case repoURL == "" && strings.HasPrefix(name, "stable/") && s.job.stableRepo != "":
		name, repoURL = strings.TrimPrefix(name, "stable/"), s.job.stableRepo
	case repoURL == "":
		return nil, "", usagef("CHART is %q, which is not a URL (https://…, oci://…) or a path, and REPO is empty: HelmChart %s needs spec.repo, or spec.chartContent", name, s.job.name)
	}
	if strings.HasPrefix(repoURL, "oci://") {
		ref := strings.TrimSuffix(repoURL, "/") + "/" + name
		ch, err := s.get(ctx, ref, "", ref)
		return ch, ref, err
	}
	ch, err := s.fromRepo(ctx, repoURL, name)
	return ch, repoURL, err
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "oci") && u.Host != ""
}

// get fetches and reads a chart. Credentials are for the host of home.
func (s *source) get(ctx context.Context, from, sha256, home string) (*chart.Chart, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("fetching chart: %w", err)
	}
	f, err := newFetcher(s.job, s.files, u, home)
	if err != nil {
		return nil, err
	}
	s.report.say("fetching %s", u.Redacted())
	var data []byte
	if u.Scheme == "oci" {
		data, err = f.oci(u, s.job.version)
	} else {
		data, err = f.http(ctx, maxChart)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching chart %s: %w", u.Redacted(), err)
	}
	if err := checkSum(data, sha256); err != nil {
		return nil, fmt.Errorf("fetching chart %s: %w", u.Redacted(), err)
	}
	ch, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading chart %s, which has to be a .tgz: %w", u.Redacted(), err)
	}
	return ch, nil
}

// fromRepo looks the chart up in a repository's index.
func (s *source) fromRepo(ctx context.Context, repoURL, name string) (*chart.Chart, error) {
	at, err := repo.ResolveReferenceURL(repoURL, "index.yaml")
	if err != nil {
		return nil, fmt.Errorf("chart repository %s: %w", repoURL, err)
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, usagef("REPO is %q, which is not the URL of a chart repository (https://…, http://… or oci://…)", repoURL)
	}
	f, err := newFetcher(s.job, s.files, u, repoURL)
	if err != nil {
		return nil, err
	}
	s.report.say("fetching %s", u.Redacted())
	data, err := f.http(ctx, maxIndex)
	if err != nil {
		return nil, fmt.Errorf("fetching the index of chart repository %s: %w", u.Redacted(), err)
	}
	index, err := parseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("reading the index of chart repository %s: %w", u.Redacted(), err)
	}
	entry, err := index.Get(name, s.job.version)
	if err != nil {
		return nil, fmt.Errorf("chart repository %s has no chart %s of version %q: %w", u.Redacted(), name, first(s.job.version, "any"), err)
	}
	if len(entry.URLs) == 0 {
		return nil, fmt.Errorf("chart repository %s names no place to fetch chart %s %s from", u.Redacted(), name, entry.Version)
	}
	from, err := repo.ResolveReferenceURL(repoURL, entry.URLs[0])
	if err != nil {
		return nil, fmt.Errorf("chart repository %s, chart %s: %w", u.Redacted(), name, err)
	}
	return s.get(ctx, from, entry.Digest, repoURL)
}

// parseIndex reads an index. Helm reads one from a file only.
func parseIndex(data []byte) (*repo.IndexFile, error) {
	f, err := os.CreateTemp("", "index-*.yaml")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return repo.LoadIndexFile(f.Name())
}
